"""A packed latents file: a whole training set in one `.npz`, encoded once, drawn from at random.

    latents     float16 (N, C, h, w), scaled
    captions    JSON: N lists of captions, of which a sample draws one
    counts      JSON: group -> number of its rows; groups are contiguous, in this order
    edges       uint8 (N, M, H, W / 8): M black-and-white conditions of each row, one bit per pixel

Further arrays are for auxiliary losses and other trainers, such as those of recipes/latents.py.

With `randomness: batch` a batch is drawn by one generator, each group with its share of it, the last group with the
rest. With `randomness: sample` each sample is drawn by a generator of its own, its group too. Prompts are encoded while
training, by the base's text encoders.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tether.base import Base
from tether.datasets.latents.encode import as_prompts
from tether.errors import TetherError
from tether.files.hashing import hash_file
from tether.training.batch import Batch, Randomness, batch_generator, sample_generators

__all__ = ["PackedBatches", "is_packed"]

_DRAWS = 3  # stream of random numbers; 0 is the noise's, 1 the prompts', 2 the order's


class _Draw(NamedTuple):
    """What a batch shows: rows, which captions, whether they are kept, which conditions; `(B,)` each."""

    rows: Tensor
    captions: Tensor
    kept: Tensor
    edges: Tensor


def is_packed(data: str) -> bool:
    """Whether the setting `data` names a packed latents file."""
    return data.endswith(".npz")


class PackedBatches:
    """Random batches of a packed latents file, by the samples' numbers in the run.

    Args:
        path: the file.
        base: its text encoders encode the prompts, on its device.
        seed: the run's.
        randomness: "batch" or "sample".
        prompt_dropout: share of prompts that are replaced by the empty one.
        shares: group -> share of the samples; by the groups' sizes by default. They are scaled to add up to 1.

    Attributes:
        content: SHA-256 of the file.

    Raises:
        TetherError: when the file cannot be read, or the shares are not of its groups.
    """

    def __init__(
        self,
        path: Path,
        base: Base,
        *,
        seed: int,
        randomness: str = "sample",
        prompt_dropout: float = 0.5,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        self.base, self.seed, self.randomness, self.prompt_dropout = base, seed, randomness, prompt_dropout
        try:
            with np.load(path) as file:
                self.latents = torch.from_numpy(file["latents"])
                self.edges = torch.from_numpy(file["edges"])
                self.captions: list[list[str]] = json.loads(str(file["captions"]))
                self.counts: dict[str, int] = json.loads(str(file["counts"]))
            self.content = hash_file(path)
        except (OSError, ValueError, KeyError) as error:
            raise TetherError(f"cannot read the packed latents {path}: {str(error).splitlines()[0]}") from error
        if not len(self.latents) == len(self.edges) == len(self.captions) == sum(self.counts.values()):
            raise TetherError(f"{path} is damaged: latents, edges, captions and counts differ in length")
        self.shares = self._check_shares(path, shares or self.counts)
        self._lock = Lock()  # a tokenizer serves one thread at a time

    def _check_shares(self, path: Path, shares: Mapping[str, float]) -> dict[str, float]:
        if shares.keys() != self.counts.keys():
            raise TetherError(f"shares are given for {', '.join(shares)}; {path} has {', '.join(self.counts)}")
        total = sum(shares.values())
        # Shares that add up to 1, but for rounding, are taken as they are.
        return {group: share if abs(total - 1) < 1e-9 else share / total for group, share in shares.items()}

    def __call__(self, numbers: range) -> Batch:
        """The samples with these numbers."""
        randomness: Randomness | None = None
        if self.randomness == "batch":
            randomness = batch_generator(self.seed, numbers)
            drawn = self._draw(len(numbers), randomness)
        else:
            each = [self._draw_one(generator) for generator in sample_generators(self.seed, numbers, _DRAWS)]
            drawn = _Draw(*(torch.cat(parts) for parts in zip(*each, strict=True)))
        choices = zip(drawn.rows.tolist(), drawn.captions.tolist(), drawn.kept.tolist(), strict=True)
        captions = [self.captions[row][which] if kept else "" for row, which, kept in choices]
        with self._lock, torch.no_grad():
            conditioning = self.base.encode_prompts(as_prompts(self.base, captions), syntax="plain")
        rows = drawn.rows.tolist()
        return Batch(
            self.latents[drawn.rows].float(),
            self._conditions(drawn),
            conditioning,
            [f"row {row}" for row in rows],
            rows,
            captions,
            randomness,
        )

    def _draw(self, size: int, generator: torch.Generator) -> _Draw:
        """A batch with each group's share of it."""
        rows, start, left, last = [], 0, size, list(self.counts)[-1]
        for group, count in self.counts.items():
            number = left if group == last else min(left, round(size * self.shares[group]))
            rows.append(start + torch.randint(count, (number,), generator=generator))
            start, left = start + count, left - number
        return self._choose(torch.cat(rows), generator)

    def _draw_one(self, generator: torch.Generator) -> _Draw:
        """A sample, of a random group."""
        shares = torch.tensor(list(self.shares.values()), dtype=torch.float64)
        group = int(torch.multinomial(shares, 1, generator=generator))
        counts = list(self.counts.values())
        row = sum(counts[:group]) + torch.randint(counts[group], (1,), generator=generator)
        return self._choose(row, generator)

    def _choose(self, rows: Tensor, generator: torch.Generator) -> _Draw:
        """A caption, whether it is kept, and a condition for each row."""
        captions = torch.randint(len(self.captions[0]), rows.shape, generator=generator)
        kept = torch.rand(rows.shape, generator=generator) >= self.prompt_dropout
        edges = torch.randint(self.edges.shape[1], rows.shape, generator=generator)
        return _Draw(rows, captions, kept, edges)

    def _conditions(self, drawn: _Draw) -> Tensor:
        """uint8 `(B, 3, H, W)`, 0 or 255."""
        shifts = torch.arange(7, -1, -1, dtype=torch.uint8)
        bits = self.edges[drawn.rows, drawn.edges][..., None] >> shifts & 1
        return (255 * bits).flatten(2)[:, None].expand(-1, 3, -1, -1)
