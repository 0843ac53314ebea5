"""Samples that are prepared and encoded when training first asks for them, and kept for the next time.

Which samples a run shows, and when, is a function of its seed: so a run of a few steps encodes what it shows, and never
the whole set. Batches are prepared ahead of the training step, in threads (`tether.training.batch.Prefetch`).

    OUT/crops-KEY/part-*.bin        see `tether.datasets.latents.store`

With aspect buckets, the size of a sample follows from its image's shape, so the shapes of all images are looked at
first: their headers are read, no pixels.

A sample that stands in for another, which cannot be used, is kept as such for the samples that are held back: as others
are, another one must stand in.

A crop is encoded alone. Its latents therefore do not depend on what else is encoded, or on where a run was interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from tether.base import Base
from tether.datasets.latents.encode import (
    Stored,
    cut_stored,
    encode_captions,
    encode_moments,
    encode_pixels,
)
from tether.datasets.latents.encoders import hash_text_encoders, hash_vae
from tether.datasets.latents.resolution import Resolution, Size
from tether.datasets.latents.samples import EncodedCrop, Samples, TextStates, condition_pixels
from tether.datasets.latents.store import Store
from tether.datasets.latents.views import About, View
from tether.datasets.manifest import digest

__all__ = ["OnDemandSamples", "encoders_of"]

FORMAT = 1
_KEPT_CAPTIONS = 256
"""States of so many captions are kept in memory."""


class OnDemandSamples(Samples):
    """Samples of a view, encoded when they are asked for.

    Args:
        view: the samples.
        encoders: a base whose autoencoder and text encoders stay as they are; see `encoders_of`.
        out: the folder for caches.
        resolution: sizes of the training images; by default the base's own.
        crops: crops of each sample, k.
        seed: as for `Samples`.
        moments: whether latents come with the variance of their posterior.
        reserve: bytes of the disk that the cache leaves free.

    Raises:
        TetherError: for a resolution that does not fit the base.
    """

    def __init__(
        self,
        view: View,
        encoders: Base,
        out: Path | str,
        *,
        resolution: Resolution | None = None,
        crops: int = 4,
        seed: int = 0,
        moments: bool = False,
        reserve: int = 0,
    ) -> None:
        super().__init__(seed)
        self.view, self.encoders, self.crops, self.moments = view, encoders, crops, moments
        self.resolution = resolution or Resolution.of(encoders)
        key: list[object] = [FORMAT, view.content, hash_vae(encoders), hash_text_encoders(encoders)]
        key += [self.resolution.described, crops, *(["moments"] if moments else [])]
        self.store = Store(Path(out) / f"crops-{digest(key)[:16]}", reserve)
        self._sizes = self._choose_sizes()
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
            apart = digest(sorted(self.view.apart))[:16]
            kept = (self._kept(index, name) for name in (f"about {index}", f"about {index} apart {apart}"))
            found = next((one for one in kept if one is not None), None)
            if found is None:
                found = self.view.about(index)
                name = f"about {index}" if found.number == index else f"about {index} apart {apart}"
                self.store.put(name, {"json": _bytes(json.dumps(found).encode())})
            self._about[index] = found
        return self._about[index]

    def _kept(self, index: int, name: str) -> About | None:
        """What is kept of a sample; None for one that earlier versions let another stand in for, whatever was apart."""
        kept = self.store.get(name)
        found = None if kept is None else About(*json.loads(kept["json"].numpy().tobytes()))
        is_unknown = found is not None and found.number is None and self.view.key(index) not in (None, found.name)
        return None if is_unknown else found

    def _number(self, index: int) -> int:
        """The number of the sample itself or of the one that stands in for it."""
        number = self._known(index).number
        return index if number is None else number

    def _choose_sizes(self) -> list[Size] | None:
        """The size of each sample; None if there is but one."""
        if len(self.resolution.sizes) == 1:
            return None
        kept = self.store.get("sizes")
        if kept is None:
            found = [self.resolution.nearest(self.view.size(index)) for index in range(len(self))]
            kept = {"sizes": torch.tensor(found, dtype=torch.int32)}
            self.store.put("sizes", kept)
        return [(width, height) for width, height in kept["sizes"].tolist()]

    def size_of(self, index: int) -> Size:
        return self.resolution.sizes[0] if self._sizes is None else self._sizes[index]

    def encoded(self, index: int, crop: int) -> EncodedCrop:
        number = self._number(index)
        name = f"crop {index} {crop}" if number == index else f"crop {index} {crop} of {number}"
        kept = self.store.get(name)
        if kept is None:
            kept = self._encode(index, crop)
            self.store.put(name, kept)
        condition = condition_pixels(kept["condition"].numpy().tobytes())
        return EncodedCrop(kept["latents"], condition, kept["place"].tolist(), kept.get("log_variance"))

    def _encode(self, index: int, crop: int) -> dict[str, Tensor]:
        flips = self._known(index).mirrored
        stored, kind = self._stored(index), self.view.kind
        size = self.size_of(index)
        ((pixels, condition, place),) = cut_stored(stored, kind, size, self.crops, flips, 0, only=crop)
        batch = torch.from_numpy(np.array(pixels))[None].permute(0, 3, 1, 2)
        encoded = (
            encode_moments(self.encoders, batch) if self.moments else {"latents": encode_pixels(self.encoders, batch)}
        )
        return {name: tensor[0] for name, tensor in encoded.items()} | {
            "condition": _bytes(condition),
            "place": torch.tensor(place, dtype=torch.int32),
        }

    def _stored(self, index: int) -> Stored:
        """A prepared sample; kept if the view wants it, as other crops of it will be shown."""
        if not self.view.keeps:
            return self.view.stored(index)
        name = f"sample {self._number(index)}"
        kept = self.store.get(name)
        if kept is None:
            found = self.view.stored(index)
            parts = {"image": found.image, "condition": found.condition, "content": found.content.encode()}
            self.store.put(name, {part: _bytes(data) for part, data in parts.items()})
            return found
        image, condition, content = (kept[part].numpy().tobytes() for part in ("image", "condition", "content"))
        return Stored(image, condition, content.decode())

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
