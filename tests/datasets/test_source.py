"""What every source has in common."""

from __future__ import annotations

import pickle
from typing import Any

from tether.datasets.source import Rejected, Sample, Source


class Numbers(Source):
    layout = "numbers"
    exact_conditions = frozenset({"depth"})

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def key(self, index: int) -> str:
        return str(index)

    def sample(self, index: int, kind: str | None = None) -> Sample:
        return Sample(self.key(index), b"image", "caption", b"map" if kind == "depth" else None)

    def listing(self) -> list[Any]:
        return [self.count]


def test_a_source_gives_exact_conditions_only_when_asked_for_them() -> None:
    source = Numbers(3)
    assert source.brings("depth")
    assert not source.brings("canny")
    assert source.sample(0, "depth").condition == b"map"
    assert source[0].condition is None
    assert [sample.key for sample in source] == ["0", "1", "2"]


def test_the_fingerprint_is_that_of_the_listing_and_the_layout() -> None:
    assert Numbers(3).fingerprint() == Numbers(3).fingerprint() != Numbers(4).fingerprint()
    renamed = Numbers(3)
    renamed.layout = "others"
    assert renamed.fingerprint() != Numbers(3).fingerprint()


def test_a_rejection_keeps_its_reason_between_processes() -> None:
    fault = pickle.loads(pickle.dumps(Rejected("too small", "8x8")))
    assert (fault.reason, fault.detail, str(fault)) == ("too small", "8x8", "too small: 8x8")
