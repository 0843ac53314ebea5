"""A cached dataset as training reads it: out of memory-mapped files, by number, in an order that is a function.

Sample n of a run lies in epoch e = n // N at place n mod N of the permutation of (seed, e). It shows crop
(o + e) mod k, where o is drawn from (seed, index), so every crop of a sample is seen once in k epochs.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import Dataset

from tether.datasets.latents.cache import SAMPLES, Cache, decode_condition
from tether.datasets.manifest import Manifest, read_manifest
from tether.errors import TetherError

__all__ = ["CachedSamples"]

# What the random numbers of a run are for: streams that never meet.
_ORDER, _CROP = 0, 1


class CachedSamples(Dataset[dict[str, Any]]):
    """Samples of a cache, ready for training.

    `samples[n]` is number n mod N in epoch n // N, unshuffled; `batch` shuffles. Threads and processes may share it.

    Args:
        cache: what `build_cache` returned.
        seed: of the order and the crops' turns.

    Attributes:
        empty_text_states: float32 `(T, D)`, the states of the empty prompt.
        empty_pooled: float32 `(P,)`, its pooled states for SDXL, None elsewhere.
        names, captions: of each sample.
        resolution: side of the pictures in pixels.
        crops: how many crops a sample has, k.

    Raises:
        TetherError: where the cache is unfinished, or a file is missing or cut off.
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
        rows = {caption: row for row, caption in enumerate(dict.fromkeys(["", *self.captions]))}
        self._rows = np.array([rows[caption] for caption in self.captions])
        self.empty_text_states = self._text.read("states", 0).float()
        self.empty_pooled = self._text.read("pooled", 0).float() if self._text.has("pooled") else None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Sample `number mod N` as epoch `number // N` shows it.

        Returns:
            latents float32 `(4, R/8, R/8)`, condition uint8 `(3, R, R)`, text_states and empty_text_states float32
            `(T, D)`, name, caption, crop (which of the k), and time_ids float32 `(6,)`: SDXL's height and width of the
            picture, top and left of the crop, and target size. For SDXL also pooled and empty_pooled float32 `(P,)`.
        """
        if number < 0:
            raise IndexError(number)
        epoch, index = divmod(number, len(self))
        return self._sample(index, epoch)

    def crop_of(self, index: int, epoch: int) -> int:
        """Which of its crops a sample shows in an epoch."""
        offset = int(np.random.default_rng([self.seed, _CROP, index]).integers(self.crops))
        return (offset + epoch) % self.crops

    def places(self, numbers: range) -> list[tuple[int, int]]:
        """Index and epoch of samples of a run, by their numbers in it."""
        placed = []
        for number in numbers:
            epoch, place = divmod(number, len(self))
            placed.append((int(_order(self.seed, epoch, len(self))[place]), epoch))
        return placed

    def batch(self, numbers: range) -> dict[str, Any]:
        """The samples of a run with these numbers: as `samples[n]`, tensors stacked to `(B, ...)`, the rest lists."""
        samples = [self._sample(index, epoch) for index, epoch in self.places(numbers)]
        return {
            name: torch.stack([sample[name] for sample in samples])
            if isinstance(samples[0][name], Tensor)
            else [sample[name] for sample in samples]
            for name in samples[0]
        }

    def _sample(self, index: int, epoch: int) -> dict[str, Any]:
        crop, row = self.crop_of(index, epoch), int(self._rows[index])
        left, top, side, flip, width, height = self._latents.read("crops", index)[crop].tolist()
        left = width - side - left if flip else left  # as SDXL was trained: the picture is mirrored, then cut
        scale = self.resolution / side
        size = self.resolution
        sample: dict[str, Any] = {
            "latents": self._latents.read("latents", index)[crop].float(),
            "condition": self._condition(index, crop),
            "text_states": self._text.read("states", row).float(),
            "empty_text_states": self.empty_text_states,
            "name": self.names[index],
            "caption": self.captions[index],
            "crop": crop,
            "time_ids": torch.tensor([height, width, round(top * scale), round(left * scale), size, size]).float(),
        }
        if self.empty_pooled is not None:
            sample |= {"pooled": self._text.read("pooled", row).float(), "empty_pooled": self.empty_pooled}
        return sample

    def _condition(self, index: int, crop: int) -> Tensor:
        """uint8 `(3, R, R)`."""
        number, row = self._latents.place(index)
        file = self._latents.file(number)
        ends = file.get_tensor("ends").flatten()
        at = row * self.crops + crop
        start = int(ends[at - 1]) if at else 0
        png = file.get_slice("conditions")[start : int(ends[at])].numpy().tobytes()
        return torch.from_numpy(decode_condition(png))


class _Shards:
    """The rows of a folder of safetensors files, which stay open, mapped into memory."""

    def __init__(self, folder: Path) -> None:
        manifest = read_manifest(folder)
        if manifest is None:
            raise TetherError(f"{folder} holds no finished cache: make it with the same command again")
        self.folder, self.manifest = folder, manifest
        self._size = manifest.shards[0].samples
        self._open: dict[int, Any] = {}
        _check_sizes(folder, manifest)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # another process maps the files itself

    def place(self, index: int) -> tuple[int, int]:
        """The shard of a row and its number there; all shards but the last are of one size."""
        return divmod(index, self._size)

    def file(self, number: int) -> Any:
        if number not in self._open:
            path = self.folder / self.manifest.shards[number].name
            try:
                self._open[number] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise TetherError(f"{path} is damaged ({error}): the same command makes it again") from None
        return self._open[number]

    def has(self, name: str) -> bool:
        return name in self.file(0).keys()  # noqa: SIM118  (a file is no dict)

    def read(self, name: str, index: int) -> Tensor:
        """One row of a tensor; only its bytes are read."""
        number, row = self.place(index)
        return self.file(number).get_slice(name)[row : row + 1][0]


def _check_sizes(folder: Path, manifest: Manifest) -> None:
    """Raises a TetherError where a file is missing or cut off; `check_cache` compares every byte."""
    for shard in manifest.shards:
        path = folder / shard.name
        if not path.is_file() or path.stat().st_size != shard.bytes:
            raise TetherError(f"{path} is missing or cut off: the same command makes it again")


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of an epoch, a permutation of 0 ... count - 1."""
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(count)
