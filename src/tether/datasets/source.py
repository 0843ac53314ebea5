"""What every source of training samples is: samples by number, each under a key that stays the same.

A fault of one sample is raised (`Rejected`) when that sample is read, never when the source is opened.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from PIL import Image

from tether.datasets.manifest import digest
from tether.files.hashing import hash_file
from tether.images import image_size

__all__ = ["ImageData", "Reason", "Rejected", "Sample", "Source", "image_data_size"]

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
        further_captions: its other captions, if it has several.
    """

    key: str
    image: ImageData
    caption: str
    condition: ImageData | None = None
    further_captions: tuple[str, ...] = ()

    @property
    def captions(self) -> tuple[str, ...]:
        """All its captions; none if the caption is empty."""
        return tuple(caption for caption in (self.caption, *self.further_captions) if caption.strip())


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
        conditions_from: where its conditions were found, in words, "column 'guide'"; empty if nowhere.
        left_out: what it has and does not read: description -> number.
        is_shuffled: whether its order says nothing, so that the first samples stand for all of them.
        random_access: whether reading a sample costs little more than reading its own files.
    """

    layout: str
    random_access: bool = True
    is_shuffled: bool = False
    has_conditions: bool = False
    exact_conditions: frozenset[str] = frozenset()
    conditions_from: str = ""
    left_out: Mapping[str, int] = MappingProxyType({})

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def key(self, index: int) -> str:
        """The key of a sample. Cheap, and never fails."""

    def subject(self, index: int) -> str:
        """What a sample shows: samples of one subject are views of the same thing. By default the sample itself."""
        return self.key(index)

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

    def is_usable(self, index: int, kind: str) -> bool:
        """Whether a sample can be used for a kind of condition, as far as that is known without reading it."""
        return True

    def usable(self, kind: str) -> Sequence[int]:
        """The samples that can be used for a kind of condition, as `is_usable`."""
        return range(len(self))

    def size(self, index: int) -> tuple[int, int] | None:
        """Width and height of a sample's image, without decoding it; None if it cannot be read."""
        try:
            return image_data_size(self.sample(index).image)
        except (Rejected, OSError):
            return None

    def file_sizes(self, index: int) -> tuple[int, ...] | None:
        """Bytes of a sample's image and condition files, without reading them; None if that is not known."""
        return None

    @abstractmethod
    def listing(self) -> list[Any]:
        """JSON values that change when the samples do: captions, names and sizes, not the images' bytes."""

    def files(self) -> Iterable[Path]:
        """The files that hold its images and conditions; none if it draws them itself."""
        return ()

    def content(self) -> str | None:
        """SHA-256 of the bytes of all its files, read as a whole; None if it has none."""
        hashes = [_hash_or_none(path) for path in self.files()]
        return digest(hashes) if hashes else None

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


def image_data_size(data: ImageData) -> tuple[int, int] | None:
    """Width and height of an image, from its header; None if it has none."""
    if isinstance(data, Image.Image):
        return data.size
    return image_size(io.BytesIO(data) if isinstance(data, bytes) else data)


def _hash_or_none(path: Path) -> str | None:
    try:
        return hash_file(path)
    except OSError:
        return None
