"""A cached dataset as training reads it: any sample at any epoch, from memory-mapped files.

In epoch e a sample shows crop (o + e) mod k, where o is drawn from (seed, index), so that k epochs show each of its
k crops once, and one of its captions at random. The order of the samples is the caller's (`tether.training.data`).
"""

from __future__ import annotations

import io
import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tether.datasets.latents.cache import SAMPLES, Cache
from tether.datasets.manifest import Manifest, read_manifest
from tether.errors import TetherError

__all__ = ["CachedSamples"]

_CROP, _CAPTION = 1, 2
"""Separate the random numbers of crops, and of captions, from others of the same seed."""


class CachedSamples:
    """The samples of a cache. Threads and processes may share it.

    Args:
        cache: what `build_cache` returned.
        seed: of the order in which a sample shows its crops.

    Attributes:
        empty_text_states: float32 `(T, D)`, the states of the empty prompt.
        empty_pooled: float32 `(P,)`, its pooled states for SDXL, else None.
        names, captions: of each sample; the first caption if it has several.
        resolution: side of the images in pixels.
        crops: the number of crops of a sample, k.

    Raises:
        TetherError: if the cache is unfinished, or a file is missing or truncated.
    """

    def __init__(self, cache: Cache, seed: int = 0) -> None:
        if seed < 0:
            raise TetherError(f"seed is {seed}: give at least 0")
        self.seed = seed
        self._latents, self._text = _Shards(cache.latents), _Shards(cache.text)
        settings = self._latents.manifest.settings
        self.resolution, self.crops = int(settings["resolution"]), int(settings["crops"])
        lines = (cache.latents / SAMPLES).read_text(encoding="utf-8").split("\n")
        listed = [json.loads(line) for line in lines if line]
        self.names: list[str] = [line["name"] for line in listed]
        self.captions: list[str] = [line["caption"] for line in listed]
        self._alternatives = [tuple(line.get("captions", (line["caption"],))) for line in listed]
        every = chain.from_iterable(self._alternatives)
        self._rows = {caption: row for row, caption in enumerate(dict.fromkeys(["", *every]))}
        self.empty_text_states = self._text.read("states", 0).float()
        self.empty_pooled = self._text.read("pooled", 0).float() if self._text.has("pooled") else None

    def __len__(self) -> int:
        return len(self.names)

    def sample(self, index: int, epoch: int = 0) -> dict[str, Any]:
        """One sample as an epoch shows it.

        Returns:
            latents float32 `(4, R/8, R/8)`, condition uint8 `(3, R, R)` (float32 with -1 in holes to inpaint),
            text_states and empty_text_states float32 `(T, D)`, name, caption, crop (which of the k), and time_ids
            float32 `(6,)`: SDXL's (2307.01952) height and width of the image, top and left of the crop, and target
            size. For SDXL also pooled and empty_pooled, float32 `(P,)`.
        """
        crop, caption = self.crop_of(index, epoch), self.caption_of(index, epoch)
        row = self._rows[caption]
        left, top, side, flip, width, height = self._latents.read("crops", index)[crop].tolist()
        left = width - side - left if flip else left  # as SDXL was trained: the image is mirrored, then cropped
        scale, size = self.resolution / side, self.resolution
        sample: dict[str, Any] = {
            "latents": self._latents.read("latents", index)[crop].float(),
            "condition": self._condition(index, crop),
            "text_states": self._text.read("states", row).float(),
            "empty_text_states": self.empty_text_states,
            "name": self.names[index],
            "caption": caption,
            "crop": crop,
            "time_ids": torch.tensor([height, width, round(top * scale), round(left * scale), size, size]).float(),
        }
        if self.empty_pooled is not None:
            sample |= {"pooled": self._text.read("pooled", row).float(), "empty_pooled": self.empty_pooled}
        return sample

    def crop_of(self, index: int, epoch: int) -> int:
        """Which of its crops a sample shows in an epoch."""
        offset = int(np.random.default_rng([self.seed, _CROP, index]).integers(self.crops))
        return (offset + epoch) % self.crops

    def caption_of(self, index: int, epoch: int) -> str:
        """Which of its captions a sample shows in an epoch: one at random."""
        captions = self._alternatives[index]
        if len(captions) == 1:
            return captions[0]
        return captions[int(np.random.default_rng([self.seed, _CAPTION, index, epoch]).integers(len(captions)))]

    def _condition(self, index: int, crop: int) -> Tensor:
        """uint8 `(3, R, R)`; float32 in [-1, 1] if it has holes to inpaint, which are -1."""
        number, row = self._latents.place(index)
        file = self._latents.file(number)
        ends = file.get_tensor("ends").flatten()
        at = row * self.crops + crop
        start = int(ends[at - 1]) if at else 0
        png = file.get_slice("conditions")[start : int(ends[at])].numpy().tobytes()
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
