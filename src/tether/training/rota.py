"""Which kind of condition a sample of a run shows, where a run trains several.

The kinds take turns in blocks: of K listed kinds, samples bK to bK + K - 1 show each of them once, in an order that is
random for each block b. A kind that is listed twice is shown twice in a block. So the kind of sample n is a function of
the run's seed and n, and the samples of one kind can be counted without looking at those before. Steps of a multiple of
K samples have every kind, as have those of 2K - 1 samples or more; others may lack one, and so may what one process or
one forward pass sees of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch

from tether.training.batch import sample_generators

__all__ = ["Rota", "Turn"]

_TURNS = 4  # stream of random numbers; 0 is the noise's, 1 the prompts', 2 the order's, 3 the packed samples'


class Turn(NamedTuple):
    """The kind of a sample, and how many samples of this kind came before it."""

    kind: str
    number: int


class Rota:
    """The kinds of a run's samples.

    Args:
        kinds: their names, in which one may be repeated.
        seed: the run's.
    """

    def __init__(self, kinds: Sequence[str], seed: int) -> None:
        self.kinds, self.seed = tuple(kinds), seed
        self._block = lru_cache(maxsize=64)(self._draw_block)

    def __call__(self, number: int) -> Turn:
        """The turn of a sample of the run."""
        block, place = divmod(number, len(self.kinds))
        kind, before = self._block(block)[place]
        return Turn(kind, block * self.kinds.count(kind) + before)

    def _draw_block(self, block: int) -> list[tuple[str, int]]:
        """The kinds of a block in order, each with how often it came before in the block."""
        (generator,) = sample_generators(self.seed, range(block, block + 1), _TURNS)
        order = [self.kinds[place] for place in torch.randperm(len(self.kinds), generator=generator).tolist()]
        return [(kind, order[:place].count(kind)) for place, kind in enumerate(order)]
