"""Some samples of a source, as a source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tether.datasets.source import Sample, Source

__all__ = ["Chosen", "evenly"]


class Chosen(Source):
    """Samples of another source.

    Args:
        source: the other one.
        indices: which of its samples, in this order.
    """

    is_shuffled = True  # they are all taken

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self.source, self.indices = source, list(indices)
        self.layout, self.exact_conditions = source.layout, source.exact_conditions

    def __len__(self) -> int:
        return len(self.indices)

    def key(self, index: int) -> str:
        return self.source.key(self.indices[index])

    def subject(self, index: int) -> str:
        return self.source.subject(self.indices[index])

    def sample(self, index: int, kind: str | None = None) -> Sample:
        return self.source.sample(self.indices[index], kind)

    def size(self, index: int) -> tuple[int, int] | None:
        return self.source.size(self.indices[index])

    def listing(self) -> list[Any]:
        return [self.source.listing(), self.indices]


def evenly(source: Source, count: int) -> Chosen:
    """`count` samples at even distances, or all where there are fewer."""
    total = len(source)
    return Chosen(source, [k * total // count for k in range(count)] if count < total else range(total))
