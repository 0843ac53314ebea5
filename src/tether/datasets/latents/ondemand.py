"""Samples that are prepared and encoded when training first asks for them, and kept for the next time.

Which samples a run shows, and when, is a function of its seed: so a run of a few steps encodes what it shows, and never
the whole set. Batches are prepared ahead of the training step, in threads (`tether.training.batch.Prefetch`).

    OUT/crops-KEY/part-*.bin        see `tether.datasets.latents.store`

A crop is encoded alone. Its latents therefore do not depend on what else is encoded, or on where a run was interrupted.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tether.base import Base
from tether.datasets.latents.cache import CachePlan, check_side
from tether.datasets.latents.crops import may_flip
from tether.datasets.latents.encode import Stored, cut_stored, encode_captions, encode_pixels, stored_sample
from tether.datasets.latents.encoders import hash_text_encoders, hash_vae
from tether.datasets.latents.samples import EncodedCrop, Samples, TextStates, condition_pixels
from tether.datasets.latents.store import Store
from tether.datasets.manifest import digest
from tether.datasets.prepare import Preparation, Prepared, prepare
from tether.datasets.source import Rejected, Source
from tether.errors import TetherError

__all__ = ["DatasetView", "OnDemandSamples", "SourceView", "View", "encoders_of"]

FORMAT = 1
_KEPT_CAPTIONS, _KEPT_SAMPLES = 256, 32
"""How many are kept in memory: states of captions, and prepared samples."""


class About(NamedTuple):
    """What is known of a sample beside its image: its name, its captions, and whether it may be mirrored."""

    name: str
    captions: Sequence[str]
    mirrored: bool


class View(ABC):
    """Samples before they are encoded, by number.

    Attributes:
        kind: of their conditions.
        content: a hash that tells these samples from others.
    """

    kind: str
    content: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def about(self, index: int) -> About:
        """A sample's name and captions."""

    @abstractmethod
    def stored(self, index: int) -> Stored:
        """A sample's image and condition."""


class DatasetView(View):
    """The samples of a built dataset."""

    def __init__(self, plan: CachePlan) -> None:
        self.plan, self.kind, self.content = plan, plan.kind, digest([plan.latents.name, plan.text.name])

    def __len__(self) -> int:
        return len(self.plan.names)

    def about(self, index: int) -> About:
        return About(self.plan.names[index], self.plan.captions[index], self.plan.mirrored[index])

    def stored(self, index: int) -> Stored:
        return stored_sample(self.plan.reader, index)


class SourceView(View):
    """The samples of a source that is not built: of the package's own sets, which are drawn when they are needed.

    A sample that cannot be used is replaced by the next one that can.

    Args:
        source: the source.
        how: how its samples are prepared.
        mirror: as for `may_flip`.
    """

    def __init__(self, source: Source, how: Preparation, mirror: bool | None = None) -> None:
        self.source, self.how, self.mirror, self.kind = source, how, mirror, how.condition
        self.usable = source.usable(how.condition)
        self.content = digest([source.layout, source.fingerprint(), repr(how), mirror])
        self._lock = Lock()
        self._prepared = lru_cache(maxsize=_KEPT_SAMPLES)(self._prepare)

    def __len__(self) -> int:
        return len(self.usable)

    def about(self, index: int) -> About:
        found = self._found(index)
        captions = (found.caption, *found.further_captions)
        return About(found.key, captions, all(may_flip(self.kind, caption, self.mirror) for caption in captions))

    def stored(self, index: int) -> Stored:
        found = self._found(index)
        return Stored(found.image, found.condition, found.content)

    def _found(self, index: int) -> Prepared:
        with self._lock:
            return self._prepared(index)

    def _prepare(self, index: int) -> Prepared:
        for number in (*self.usable[index:], *self.usable[:index]):
            try:
                return prepare(self.source.sample(number, self.kind), self.how)
            except Rejected as fault:
                last = fault
        raise TetherError(f"no usable sample; the last one: {last.detail}")


class OnDemandSamples(Samples):
    """Samples of a view, encoded when they are asked for.

    Args:
        view: the samples.
        encoders: a base whose autoencoder and text encoders stay as they are; see `encoders_of`.
        out: the folder for caches.
        resolution: side of the training images in pixels; by default the base's own.
        crops: crops of each sample, k.
        seed: as for `Samples`.

    Raises:
        TetherError: for a resolution that does not fit the base.
    """

    def __init__(
        self,
        view: View,
        encoders: Base,
        out: Path | str,
        *,
        resolution: int | None = None,
        crops: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.view, self.encoders, self.crops = view, encoders, crops
        self.resolution = check_side(encoders, resolution)
        key = [FORMAT, view.content, hash_vae(encoders), hash_text_encoders(encoders), self.resolution, crops]
        self.store = Store(Path(out) / f"crops-{digest(key)[:16]}")
        self._about: dict[int, About] = {}
        self._encoding = Lock()  # a tokenizer serves one thread at a time
        self._states = lru_cache(maxsize=_KEPT_CAPTIONS)(self._read_states)

    def __len__(self) -> int:
        return len(self.view)

    def name_of(self, index: int) -> str:
        return self._known(index).name

    def captions_of(self, index: int) -> Sequence[str]:
        return self._known(index).captions

    def _known(self, index: int) -> About:
        """What is known of a sample; kept, as a source has to draw the sample to say it."""
        if index not in self._about:
            kept = self.store.get(f"about {index}")
            if kept is None:
                found = self.view.about(index)
                self.store.put(f"about {index}", {"json": _bytes(json.dumps(found).encode())})
            else:
                found = About(*json.loads(kept["json"].numpy().tobytes()))
            self._about[index] = found
        return self._about[index]

    def encoded(self, index: int, crop: int) -> EncodedCrop:
        name = f"crop {index} {crop}"
        kept = self.store.get(name)
        if kept is None:
            kept = self._encode(index, crop)
            self.store.put(name, kept)
        condition = condition_pixels(kept["condition"].numpy().tobytes())
        return EncodedCrop(kept["latents"], condition, kept["place"].tolist())

    def _encode(self, index: int, crop: int) -> dict[str, Tensor]:
        flips = self._known(index).mirrored
        stored, kind = self.view.stored(index), self.view.kind
        ((pixels, condition, place),) = cut_stored(stored, kind, self.resolution, self.crops, flips, 0, only=crop)
        batch = torch.from_numpy(np.array(pixels))[None].permute(0, 3, 1, 2)
        return {
            "latents": encode_pixels(self.encoders, batch)[0],
            "condition": _bytes(condition),
            "place": torch.tensor(place, dtype=torch.int32),
        }

    def text_states(self, caption: str) -> TextStates:
        return self._states(caption)

    def _read_states(self, caption: str) -> TextStates:
        name = f"text {caption}"
        kept = self.store.get(name)
        if kept is None:
            with self._encoding, torch.no_grad():
                kept = {key: tensor[0] for key, tensor in encode_captions(self.encoders, [caption], 1).items()}
            self.store.put(name, kept)
        return TextStates(kept["states"], kept.get("pooled"))


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


class _Encoders(Base):
    """A base of which only the autoencoder and the text encoders are used."""

    @property
    def device(self) -> torch.device:
        return self.vae.device

    @property
    def dtype(self) -> torch.dtype:
        return self.vae.dtype


def encoders_of(base: Base) -> Base:
    """A copy of a base's autoencoder and text encoders, which stay as they are while the base is cast or released."""
    encoders = deepcopy(base.vae), deepcopy(base.text)
    return _Encoders(base.unet, *encoders, base.noise_schedule, name=base.name, family=base.family)
