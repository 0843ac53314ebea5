"""Several records of one image are one sample with several captions."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import NamedTuple

__all__ = ["Merged", "merge_captions"]


class Merged(NamedTuple):
    """A sample: the number of its first record, and the captions of all its records."""

    number: int
    captions: tuple[str, ...]


def merge_captions(records: Iterable[tuple[Hashable | None, tuple[str, ...]]]) -> list[Merged]:
    """The samples of records: one an image, in the order of their first records.

    A record whose image is known but which has no new caption stays a sample of its own, a duplicate.

    Args:
        records: of each, what tells its image and condition from others (None: it has none), and its captions.
    """
    samples: list[Merged] = []
    places: dict[Hashable, int] = {}
    for number, (image, captions) in enumerate(records):
        place = len(samples) if image is None else places.setdefault(image, len(samples))
        known = samples[place].captions if place < len(samples) else ()
        new = tuple(caption for caption in captions if caption not in known)
        if place == len(samples) or not new:
            samples.append(Merged(number, captions))
        else:
            samples[place] = Merged(samples[place].number, known + new)
    return samples
