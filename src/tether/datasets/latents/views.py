"""Samples before they are encoded: those of a built dataset, of a source, or of a source that is gone."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import islice
from threading import Lock
from typing import NamedTuple

from tether.datasets.latents.cache import CachePlan
from tether.datasets.latents.crops import may_flip
from tether.datasets.latents.encode import Stored, stored_sample
from tether.datasets.latents.resolution import Size
from tether.datasets.manifest import digest
from tether.datasets.prepare import Preparation, Prepared, prepare_sample
from tether.datasets.source import Rejected, Source, image_data_size
from tether.datasets.twins import repeated_files
from tether.errors import TetherError

__all__ = ["About", "DatasetView", "GoneView", "SourceView", "View"]

logger = logging.getLogger(__name__)

_SQUARE = (1, 1)
"""The shape that is taken for that of an image which cannot be read."""
_KEPT_SAMPLES = 32
"""So many prepared samples are kept in memory."""
_TRIED = 256
"""Samples that are tried in a row until one can be used."""
_LOCKS = 64
"""Samples of numbers that differ modulo this one are prepared at the same time."""


class About(NamedTuple):
    """What is known of a sample beside its image: its name, its captions, and whether it may be mirrored.

    Its number is that of the sample that stands in for it, if it cannot be used; None in what earlier versions kept.
    """

    name: str
    captions: Sequence[str]
    mirrored: bool
    number: int | None = None


class View(ABC):
    """Samples before they are encoded, by number.

    Attributes:
        kind: of their conditions.
        content: a hash that tells these samples from others.
        keeps: whether prepared samples are to be kept: they cost more to prepare than to read, or may be gone later.
        apart: samples for another use: none of them stands in for one of the others, and none of these for them. To be
            set before samples are asked for.
    """

    kind: str
    content: str
    keeps: bool = False
    apart: Collection[int] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def about(self, index: int) -> About:
        """A sample's name and captions."""

    def key(self, index: int) -> str | None:
        """The name that a sample has itself, also if another one stands in for it; None if that is not known. Cheap."""
        return None

    @abstractmethod
    def stored(self, index: int) -> Stored:
        """A sample's image and condition."""

    @abstractmethod
    def size(self, index: int) -> Size:
        """Width and height of a sample's image, or others of the same ratio. Cheap, and never fails."""


class DatasetView(View):
    """The samples of a built dataset."""

    def __init__(self, plan: CachePlan) -> None:
        self.plan, self.kind, self.content = plan, plan.kind, digest([plan.latents.name, plan.text.name])

    def __len__(self) -> int:
        return len(self.plan.names)

    def about(self, index: int) -> About:
        return About(self.plan.names[index], self.plan.captions[index], self.plan.mirrored[index], index)

    def key(self, index: int) -> str:
        return self.plan.names[index]

    def stored(self, index: int) -> Stored:
        return stored_sample(self.plan.reader, index)

    def size(self, index: int) -> Size:
        try:
            return image_data_size(self.plan.reader.sample(index).image) or _SQUARE
        except Rejected:
            return _SQUARE


class SourceView(View):
    """The samples of a source that is not built, prepared when they are needed.

    A sample that cannot be used is replaced by the next one that can, see `apart`. Samples whose files are the same as
    an earlier one's are left out.

    Args:
        source: the source.
        how: how its samples are prepared.
        mirror: as for `may_flip`.
        identity: what tells its content from that of others; by default its fingerprint. If it is given, prepared
            samples are kept.
        repeated: the samples whose files are the same as an earlier one's; by default they are looked for.
    """

    def __init__(
        self,
        source: Source,
        how: Preparation,
        mirror: bool | None = None,
        identity: str | None = None,
        repeated: Collection[int] | None = None,
    ) -> None:
        self.source, self.how, self.mirror, self.kind = source, how, mirror, how.condition
        usable = source.usable(how.condition)
        repeated = repeated_files(source, usable) if repeated is None else repeated
        self.usable = [index for index in usable if index not in repeated] if repeated else usable
        content, maker = [source.layout, identity or source.fingerprint(), repr(how), mirror], how.maker(source)
        self.content = digest([*content, maker] if maker else content)
        self.keeps = identity is not None
        self._told: set[int] = set()
        # So that no sample is prepared twice at once. A network of the user's own may not bear several threads.
        self._locks = [Lock() for _ in range(1 if "detector" in maker else _LOCKS)]
        self._prepared = lru_cache(maxsize=_KEPT_SAMPLES)(self._prepare)

    def __len__(self) -> int:
        return len(self.usable)

    def about(self, index: int) -> About:
        number, found = self._found(index)
        captions = (found.caption, *found.further_captions)
        mirrored = all(may_flip(self.kind, caption, self.mirror) for caption in captions)
        return About(found.key, captions, mirrored, number)

    def key(self, index: int) -> str:
        return self.source.key(self.usable[index])

    def size(self, index: int) -> Size:
        return self.source.size(self.usable[index]) or _SQUARE

    def stored(self, index: int) -> Stored:
        _, found = self._found(index)
        return Stored(found.image, found.condition, found.content)

    def _found(self, index: int) -> tuple[int, Prepared]:
        with self._locks[index % len(self._locks)]:
            return self._prepared(index)

    def _prepare(self, index: int) -> tuple[int, Prepared]:
        """A sample, or the one that stands in for it, with its number."""
        count, is_apart = len(self.usable), index in self.apart
        following = (k % count for k in range(index, index + count))
        alike = (k for k in following if (k in self.apart) == is_apart)
        for k in islice(alike, _TRIED):
            number = self.usable[k]
            found = prepare_sample(self.source, self.how, number)
            if not isinstance(found, Rejected):
                return k, found
            if number not in self._told:
                self._told.add(number)
                logger.warning("%s is left out, %s: %s", self.source.key(number), found.reason, found.detail)
            last = found
        raise TetherError(f"no usable sample; the last one: {last.detail}")


class GoneView(View):
    """The samples of a source that is not there any more: those that were kept, which are not asked for here.

    Args:
        kind, content: what those of the source were.
        count: how many samples it had.
        name: the source's, for messages.
    """

    keeps = True

    def __init__(self, kind: str, content: str, count: int, name: str) -> None:
        self.kind, self.content, self.count, self.name = kind, content, count, name

    def __len__(self) -> int:
        return self.count

    def about(self, index: int) -> About:
        raise self._missing(index)

    def size(self, index: int) -> Size:
        raise self._missing(index)

    def stored(self, index: int) -> Stored:
        raise self._missing(index)

    def _missing(self, index: int) -> TetherError:
        return TetherError(
            f"{self.name} is gone, and sample {index} was never shown: put it back, or give its new place as --data"
        )
