"""Samples as training reads them: any sample at any epoch.

In epoch e a sample shows crop (o + e) mod k, where o is drawn from (seed, index), so that k epochs show each of its
k crops once, and one of its captions at random. The order of the samples is the caller's (`tether.training.data`).
"""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tether.datasets.latents.cache import SAMPLES, Cache
from tether.datasets.latents.resolution import Size
from tether.datasets.manifest import Manifest, read_manifest
from tether.errors import TetherError

__all__ = ["CachedSamples", "EncodedCrop", "Samples", "TextStates", "condition_pixels"]

_CROP, _CAPTION = 1, 2
"""Separate the random numbers of crops, and of captions, from others of the same seed."""


class EncodedCrop(NamedTuple):
    """A crop of an image, encoded.

    Attributes:
        latents: the posterior's mean, float16 `(C, h, w)`, scaled.
        condition: `(3, H, W)`.
        place: the crop's left, top, width and flip, and the image's width and height.
        log_variance: of the scaled latents, float16 `(C, h, w)`; None if only means are known.
    """

    latents: Tensor
    condition: Tensor
    place: list[int]
    log_variance: Tensor | None = None


class TextStates(NamedTuple):
    """The states of a caption, float16 `(T, D)`, and for SDXL its pooled ones, `(P,)`."""

    states: Tensor
    pooled: Tensor | None


class Samples(ABC):
    """Encoded samples, by number. Threads may share them.

    Args:
        seed: of the order in which a sample shows its crops, and of its captions.

    Attributes:
        crops: the number of crops of a sample, k.

    Raises:
        TetherError: for a negative seed.
    """

    crops: int

    def __init__(self, seed: int = 0) -> None:
        if seed < 0:
            raise TetherError(f"seed is {seed}: give at least 0")
        self.seed = seed

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name_of(self, index: int) -> str:
        """A sample's name, for messages."""

    @abstractmethod
    def captions_of(self, index: int) -> Sequence[str]:
        """A sample's captions: at least one, which may be empty."""

    @abstractmethod
    def size_of(self, index: int) -> Size:
        """Width and height in pixels in which a sample is trained on."""

    @abstractmethod
    def encoded(self, index: int, crop: int) -> EncodedCrop:
        """A crop of a sample, encoded."""

    @abstractmethod
    def text_states(self, caption: str) -> TextStates:
        """A caption of a sample, or the empty one, encoded."""

    def sample(self, index: int, epoch: int = 0) -> dict[str, Any]:
        """One sample as an epoch shows it.

        Returns:
            latents float32 `(4, H/8, W/8)`, condition uint8 `(3, H, W)` (float32 with -1 in holes to inpaint),
            text_states and empty_text_states float32 `(T, D)`, name, caption, crop (which of the k), and time_ids
            float32 `(6,)`: SDXL's (2307.01952) height and width of the image, top and left of the crop, and target
            size. For SDXL also pooled and empty_pooled, float32 `(P,)`; if latents are to be sampled, log_variance.
        """
        crop, caption = self.crop_of(index, epoch), self.caption_of(index, epoch)
        latents, condition, (left, top, wide, flip, width, height), log_variance = self.encoded(index, crop)
        left = width - wide - left if flip else left  # as SDXL was trained: the image is mirrored, then cropped
        size = self.size_of(index)
        scale = size[0] / wide
        text, empty = self.text_states(caption), self.text_states("")
        sample: dict[str, Any] = {
            "latents": latents.float(),
            "condition": condition,
            "text_states": text.states.float(),
            "empty_text_states": empty.states.float(),
            "name": self.name_of(index),
            "caption": caption,
            "crop": crop,
            "time_ids": torch.tensor(
                [height, width, round(top * scale), round(left * scale), size[1], size[0]]
            ).float(),
        }
        if log_variance is not None:
            sample["log_variance"] = log_variance.float()
        if text.pooled is not None and empty.pooled is not None:
            sample |= {"pooled": text.pooled.float(), "empty_pooled": empty.pooled.float()}
        return sample

    def crop_of(self, index: int, epoch: int) -> int:
        """Which of its crops a sample shows in an epoch."""
        offset = int(np.random.default_rng([self.seed, _CROP, index]).integers(self.crops))
        return (offset + epoch) % self.crops

    def caption_of(self, index: int, epoch: int) -> str:
        """Which of its captions a sample shows in an epoch: one at random."""
        captions = self.captions_of(index)
        if len(captions) == 1:
            return captions[0]
        return captions[int(np.random.default_rng([self.seed, _CAPTION, index, epoch]).integers(len(captions)))]


class CachedSamples(Samples):
    """The samples of a cache, from memory-mapped files. Processes may share it too.

    Args:
        cache: what `build_cache` returned.
        seed: as for `Samples`.

    Attributes:
        names, captions: of each sample; the first caption if it has several.

    Raises:
        TetherError: if the cache is unfinished, or a file is missing or truncated.
    """

    def __init__(self, cache: Cache, seed: int = 0) -> None:
        super().__init__(seed)
        self._latents, self._text = _Shards(cache.latents), _Shards(cache.text)
        settings = self._latents.manifest.settings
        self.crops = int(settings["crops"])
        width, _, height = str(settings["resolution"]).partition("x")
        self._size = int(width), int(height or width)
        lines = (cache.latents / SAMPLES).read_text(encoding="utf-8").split("\n")
        listed = [json.loads(line) for line in lines if line]
        self.names: list[str] = [line["name"] for line in listed]
        self.captions: list[str] = [line["caption"] for line in listed]
        self._alternatives = [tuple(line.get("captions", (line["caption"],))) for line in listed]
        every = chain.from_iterable(self._alternatives)
        self._rows = {caption: row for row, caption in enumerate(dict.fromkeys(["", *every]))}
        self._empty = self._read_text(0)

    def __len__(self) -> int:
        return len(self.names)

    def name_of(self, index: int) -> str:
        return self.names[index]

    def captions_of(self, index: int) -> Sequence[str]:
        return self._alternatives[index]

    def size_of(self, index: int) -> Size:
        return self._size

    def encoded(self, index: int, crop: int) -> EncodedCrop:
        place = self._latents.read("crops", index)[crop].tolist()
        return EncodedCrop(self._latents.read("latents", index)[crop], self._condition(index, crop), place)

    def text_states(self, caption: str) -> TextStates:
        return self._read_text(self._rows[caption]) if caption else self._empty

    def _read_text(self, row: int) -> TextStates:
        pooled = self._text.read("pooled", row) if self._text.has("pooled") else None
        return TextStates(self._text.read("states", row), pooled)

    def _condition(self, index: int, crop: int) -> Tensor:
        number, row = self._latents.place(index)
        file = self._latents.file(number)
        ends = file.get_tensor("ends").flatten()
        at = row * self.crops + crop
        start = int(ends[at - 1]) if at else 0
        return condition_pixels(file.get_slice("conditions")[start : int(ends[at])].numpy().tobytes())


def condition_pixels(png: bytes) -> Tensor:
    """A condition as uint8 `(3, H, W)`; float32 in [-1, 1] if it has holes to inpaint, which are -1."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        pixels = torch.from_numpy(np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy())
        if image.mode != "RGBA":
            return pixels
        holes = torch.from_numpy(np.asarray(image.getchannel("A")) == 0)
    return (pixels.float() / 255).masked_fill(holes, -1.0)


class _Shards:
    """The rows of a folder of safetensors files, which stay open and memory-mapped."""

    def __init__(self, folder: Path) -> None:
        manifest = read_manifest(folder)
        if manifest is None:
            raise TetherError(f"{folder} contains no finished cache: run the same command again")
        self.folder, self.manifest = folder, manifest
        self._size = manifest.shards[0].samples
        self._open: dict[int, Any] = {}
        _check_sizes(folder, manifest)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # each process maps the files itself

    def place(self, index: int) -> tuple[int, int]:
        """The shard of a row and its number there; all shards but the last have the same size."""
        return divmod(index, self._size)

    def file(self, number: int) -> Any:
        if number not in self._open:
            path = self.folder / self.manifest.shards[number].name
            try:
                self._open[number] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise TetherError(f"{path} is damaged ({error}): the same command rebuilds it") from None
        return self._open[number]

    def has(self, name: str) -> bool:
        return name in self.file(0).keys()  # noqa: SIM118  (safe_open is not a dict)

    def read(self, name: str, index: int) -> Tensor:
        """One row of a tensor; only its bytes are read."""
        number, row = self.place(index)
        return self.file(number).get_slice(name)[row : row + 1][0]


def _check_sizes(folder: Path, manifest: Manifest) -> None:
    """Raises a TetherError if a file is missing or truncated; `check_cache` compares every byte."""
    for shard in manifest.shards:
        path = folder / shard.name
        if not path.is_file() or path.stat().st_size != shard.bytes:
            raise TetherError(f"{path} is missing or truncated: the same command rebuilds it")
