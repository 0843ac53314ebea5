"""A packed latents file: a whole training set in one `.npz`, encoded once, drawn from at random.

    latents     float16 (N, C, h, w), scaled
    captions    JSON: N lists of captions, of which a sample draws one
    counts      JSON: group -> number of its rows; groups are contiguous, in this order
    edges       uint8 (N, M, H, W / 8): M black-and-white conditions of each row, one bit per pixel; or
    images      uint8 (N, H, W, 3), of which conditions of any kind are made (`tether.training.packed_kinds`), and
    maps_KIND   uint8 (S, H, W, 3): exact conditions of a kind of the last S rows

Further arrays are for auxiliary losses and other trainers, such as those of recipes/latents.py.

With `randomness: batch` a batch is drawn by one generator, each group with its share of it, rounded, the last group
with the rest; a batch so small that a group would get none is refused. With `randomness: sample` each sample is drawn
by a generator of its own, its group too. Prompts are encoded while training, by the base's text encoders.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from threading import Lock
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from tether.base import Base
from tether.datasets.latents.encode import as_prompts
from tether.errors import TetherError
from tether.files.hashing import hash_file
from tether.training.batch import Batch, Randomness, batch_generator, sample_generators, stacked
from tether.training.packed_kinds import PackedConditions
from tether.training.rota import Rota

__all__ = ["PackedBatches", "check_shares", "is_packed", "read_counts"]

_DRAWS = 3  # stream of random numbers; 0 is the noise's, 1 the prompts', 2 the order's


class _Draw(NamedTuple):
    """What a batch shows: rows, which captions, whether they are kept, which conditions or their seeds; `(B,)`."""

    rows: Tensor
    captions: Tensor
    kept: Tensor
    edges: Tensor


def is_packed(data: str) -> bool:
    """Whether the setting `data` names a packed latents file."""
    return data.endswith(".npz")


def read_counts(path: Path) -> dict[str, int]:
    """The groups of a packed latents file, and how many rows each has; no other array is read.

    Raises:
        TetherError: when the file cannot be read.
    """
    try:
        with np.load(path) as file:
            return json.loads(str(file["counts"]))
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise _unreadable(path, error) from error


def check_shares(path: Path, counts: Mapping[str, int], shares: Mapping[str, float]) -> None:
    """Raises a TetherError when shares are not those of a file's groups."""
    if shares.keys() != counts.keys():
        raise TetherError(f"shares are given for {', '.join(shares)}; {path} has {', '.join(counts)}")


def _unreadable(path: Path, error: Exception) -> TetherError:
    return TetherError(f"cannot read the packed latents {path}: {str(error).splitlines()[0]}")


class PackedBatches:
    """Random batches of a packed latents file, by the samples' numbers in the run.

    Args:
        path: the file.
        base: its text encoders encode the prompts, on its device.
        seed: the run's.
        randomness: "batch" or "sample".
        prompt_dropout: share of prompts that are replaced by the empty one.
        shares: group -> share of the samples; by the groups' sizes by default. They are scaled to add up to 1.
        rota: which kind of condition each sample shows, for a file with images. Where only some rows have conditions of
            a kind, its samples are drawn from these.
        tell_kinds: whether batches say the kinds of their samples, for a control of several.

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
        rota: Rota | None = None,
        tell_kinds: bool = False,
    ) -> None:
        self.base, self.seed, self.randomness, self.prompt_dropout = base, seed, randomness, prompt_dropout
        self.tell_kinds = tell_kinds
        self.conditions: PackedConditions | None = None
        try:
            with np.load(path) as file:
                self.latents = torch.from_numpy(file["latents"])
                if rota is not None and "images" in file:
                    self.conditions = PackedConditions.read(file, rota.kinds, str(path))
                else:
                    self.edges = torch.from_numpy(file["edges"])
                self.captions: list[list[str]] = json.loads(str(file["captions"]))
                self.counts: dict[str, int] = json.loads(str(file["counts"]))
            self.content = hash_file(path)
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise _unreadable(path, error) from error
        if tell_kinds and self.conditions is None:
            raise TetherError(f"{path} has conditions of one kind: several kinds need a file with images")
        self.rota = rota
        shown = self.edges if self.conditions is None else self.conditions
        if not len(self.latents) == len(shown) == len(self.captions) == sum(self.counts.values()):
            raise TetherError(f"{path} is damaged: latents, edges or images, captions and counts differ in length")
        if len({len(row) for row in self.captions}) > 1:
            raise TetherError(f"{path} is damaged: samples have different numbers of captions")
        shares = shares or self.counts
        check_shares(path, self.counts, shares)
        total = sum(shares.values())
        # Shares that add up to 1, but for rounding, are taken as they are.
        self.shares = {group: share if abs(total - 1) < 1e-9 else share / total for group, share in shares.items()}
        self._lock = Lock()  # a tokenizer serves one thread at a time

    def __call__(self, numbers: range) -> Batch:
        """The samples with these numbers."""
        randomness: Randomness | None = None
        if self.randomness == "batch":
            randomness = batch_generator(self.seed, numbers)
            drawn = self._draw(len(numbers), randomness)
        else:
            each = [self._draw_one(generator) for generator in sample_generators(self.seed, numbers, _DRAWS)]
            drawn = _Draw(*(torch.cat(parts) for parts in zip(*each, strict=True)))
        shown = [] if self.rota is None else [self.rota(number).kind for number in numbers]
        drawn = self._usable(drawn, shown)
        choices = zip(drawn.rows.tolist(), drawn.captions.tolist(), drawn.kept.tolist(), strict=True)
        captions = [self.captions[row][which] if kept else "" for row, which, kept in choices]
        with self._lock, torch.no_grad():
            conditioning = self.base.encode_prompts(as_prompts(self.base, captions), syntax="plain")
        rows = drawn.rows.tolist()
        return Batch(
            self.latents[drawn.rows].float(),
            self._conditions(drawn, shown),
            conditioning,
            [f"row {row}" for row in rows],
            rows,
            captions,
            randomness,
            shown if self.tell_kinds else (),
        )

    def _usable(self, drawn: _Draw, shown: list[str]) -> _Draw:
        """The draw with rows that have conditions of their samples' kinds."""
        if self.conditions is None:
            return drawn
        rows = drawn.rows.clone()
        for place, kind in enumerate(shown):
            usable = self.conditions.usable(kind)
            at = int(torch.searchsorted(usable, rows[place]))
            if at == len(usable) or usable[at] != rows[place]:
                rows[place] = usable[int(drawn.edges[place]) % len(usable)]
        return drawn._replace(rows=rows)

    def _draw(self, size: int, generator: torch.Generator) -> _Draw:
        """A batch with each group's share of it."""
        rows, start, numbers = [], 0, self._numbers(size)
        if missed := self._missed(numbers):
            enough = next(more for more in count(size) if not self._missed(self._numbers(more)))
            raise TetherError(
                f"a batch of {size} has no sample of the group {missed}, whose share is {self.shares[missed]:.1%}: "
                f"give a batch_size of {enough}, or randomness=sample, which draws the group of each sample"
            )
        for group, rows_of_group in self.counts.items():
            rows.append(start + torch.randint(rows_of_group, (numbers[group],), generator=generator))
            start += rows_of_group
        return self._choose(torch.cat(rows), generator)

    def _missed(self, numbers: Mapping[str, int]) -> str:
        """A group that has a share and gets no sample; "" if there is none."""
        return next((group for group, number in numbers.items() if not number and self.shares[group] > 0), "")

    def _numbers(self, size: int) -> dict[str, int]:
        """How many samples of each group a batch has."""
        numbers, left, last = {}, size, list(self.counts)[-1]
        for group in self.counts:
            numbers[group] = left if group == last else min(left, round(size * self.shares[group]))
            left -= numbers[group]
        return numbers

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
        variants = self.edges.shape[1] if self.conditions is None else 2**31
        edges = torch.randint(variants, rows.shape, generator=generator)
        return _Draw(rows, captions, kept, edges)

    def _conditions(self, drawn: _Draw, shown: list[str]) -> Tensor:
        """uint8 `(B, 3, H, W)`, of edges 0 or 255; float32 if one of them has holes."""
        if self.conditions is not None:
            choices = zip(drawn.rows.tolist(), shown, drawn.edges.tolist(), strict=True)
            return stacked([self.conditions.condition(*choice) for choice in choices])
        shifts = torch.arange(7, -1, -1, dtype=torch.uint8)
        bits = self.edges[drawn.rows, drawn.edges][..., None] >> shifts & 1
        return (255 * bits).flatten(2)[:, None].expand(-1, 3, -1, -1)
