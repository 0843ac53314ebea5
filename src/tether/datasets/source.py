"""What every source of training samples is: samples by number, each under a key that stays the same.

A fault of one sample is raised (`Rejected`) when that sample is read, never when the source is opened.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from tether.datasets.manifest import digest

__all__ = ["ImageData", "Reason", "Rejected", "Sample", "Source"]

ImageData = bytes | Path | Image.Image
"""An encoded image, the path of an image file, or pixels."""

Reason = Literal[
    "unreadable",
    "too small",
    "wrong mode",
    "duplicate",
    "empty caption",
    "condition unreadable",
    "condition size",
    "empty condition",
    "not annotated",
]


@dataclass(frozen=True)
class Sample:
    """A sample as a source has it.

    Attributes:
        key: identifies the sample in its source; the same each time the source is opened.
        image: the image.
        caption: its caption.
        condition: the condition image, of the image's size, if the source has one.
    """

    key: str
    image: ImageData
    caption: str
    condition: ImageData | None = None


class Rejected(Exception):
    """A sample that cannot be used.

    Attributes:
        reason: the kind of fault.
        detail: the fault in words.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, self.detail)


class Source(ABC):
    """Samples by number.

    Attributes:
        layout: how the samples are stored or made, in one word ("folder", "parquet", "scenes").
        has_conditions: whether every sample comes with one condition image of its own. Its kind is not recorded, so
            the user names it.
        exact_conditions: kinds of condition that the source can compute for a sample without an annotator.
    """

    layout: str
    has_conditions: bool = False
    exact_conditions: frozenset[str] = frozenset()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def key(self, index: int) -> str:
        """The key of a sample. Cheap, and never fails."""

    @abstractmethod
    def sample(self, index: int, kind: str | None = None) -> Sample:
        """One sample.

        Args:
            index: its number, from 0 on.
            kind: one of `exact_conditions`, whose map becomes the sample's condition. Any other kind is ignored: the
                sample then has the condition it comes with, or none.

        Raises:
            Rejected: if the sample cannot be read.
        """

    @abstractmethod
    def listing(self) -> list[Any]:
        """JSON values that change when the samples do: captions, names and sizes, not the images' bytes."""

    def brings(self, kind: str) -> bool:
        """Whether samples of this kind of condition need no annotator."""
        return self.has_conditions or kind in self.exact_conditions

    def __getitem__(self, index: int) -> Sample:
        return self.sample(index)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def fingerprint(self) -> str:
        """SHA-256 that identifies the source's content."""
        return digest([self.layout, self.listing()])
