"""The order in which a run shows its samples, so that every forward pass has images of one size.

A run counts its samples n = 0, 1, ... Block j is the samples jG ... (j+1)G - 1, where G is the number of samples of a
step, over all processes. A block shows samples of one bucket, so its forward passes do, however they are split.

The m_b samples of bucket b are shown in passes: each pass shows all of them, in a new random order. In epoch e, bucket
b gets floor((e+1) m_b/G) - floor(e m_b/G) blocks; the blocks of an epoch are in random order. So every bucket has its
exact share of the run and every sample is shown equally often, and all of it is a function of the seed and n. With one
bucket, sample n is entry π_p(n mod m) of pass p = n div m.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

import torch

from tether.training.batch import sample_generators

__all__ = ["Order"]

_ORDER, _BLOCKS = 2, 5
"""Streams of random numbers: of the passes of bucket b of order p, _ORDER + 16 (b + p); of an epoch's blocks."""


class Order:
    """Number of a sample in the run -> which sample that is.

    Args:
        buckets: the samples of each bucket, none of which is empty.
        block: samples of a step, over all processes, G.
        seed: the run's.
        place: of several orders of a run, each with one bucket, which one it is: each shows the samples in its own.
    """

    def __init__(self, buckets: Sequence[Sequence[int]], block: int, seed: int, place: int = 0) -> None:
        self.buckets, self.block, self.seed, self.place = buckets, block, seed, place
        self._pass = lru_cache(maxsize=2 * len(buckets))(self._draw_pass)
        self._blocks = lru_cache(maxsize=2)(self._draw_blocks)

    def __call__(self, number: int) -> tuple[int, int]:
        """The sample with a number in the run, and the pass of its bucket in which it is shown."""
        bucket, shown = self._place(number)
        samples = self.buckets[bucket]
        which, place = divmod(shown, len(samples))
        return samples[self._pass(bucket, which)[place]], which

    def _place(self, number: int) -> tuple[int, int]:
        """The bucket of a sample, and how many samples of it were shown before."""
        if len(self.buckets) == 1:
            return 0, number
        block, inside = divmod(number, self.block)
        epoch = self._epoch(block)
        blocks = self._blocks(epoch)
        place = block - self._before(epoch)
        bucket = blocks[place]
        earlier = epoch * len(self.buckets[bucket]) // self.block + blocks[:place].count(bucket)
        return bucket, earlier * self.block + inside

    def _before(self, epoch: int) -> int:
        """The blocks of all epochs before one."""
        return sum(epoch * len(samples) // self.block for samples in self.buckets)

    def _epoch(self, block: int) -> int:
        """The epoch of a block. An epoch may have none."""
        total = sum(len(samples) for samples in self.buckets)
        most = (block + 1 + len(self.buckets)) * self.block // total + 2
        return bisect_right(range(most + 1), block, key=self._before) - 1

    def _draw_pass(self, bucket: int, which: int) -> list[int]:
        (generator,) = sample_generators(self.seed, range(which, which + 1), _ORDER + 16 * (bucket + self.place))
        return torch.randperm(len(self.buckets[bucket]), generator=generator).tolist()

    def _draw_blocks(self, epoch: int) -> list[int]:
        """The bucket of each block of an epoch."""
        blocks = [
            bucket
            for bucket, samples in enumerate(self.buckets)
            for _ in range((epoch + 1) * len(samples) // self.block - epoch * len(samples) // self.block)
        ]
        (generator,) = sample_generators(self.seed, range(epoch, epoch + 1), _BLOCKS)
        return [blocks[place] for place in torch.randperm(len(blocks), generator=generator).tolist()]
