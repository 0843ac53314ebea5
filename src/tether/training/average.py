"""The exponential moving average of the weights (arXiv:1806.04498, section 3).

    θ̄_k+1 = d_k θ̄_k + (1 - d_k) θ_k+1

d_k is min(d, (1 + k) / (10 + k)) with a warmup; without one it is 0 for k = 0, then d.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["MovingAverage"]


class MovingAverage:
    """The exponential moving average θ̄ of some parameters.

    Args:
        parameters: what is averaged; the average starts at their values.
        decay: d, below 1.
        warmup: let the decay rise from 0.1.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float, warmup: bool = True) -> None:
        self.parameters, self.decay, self.warmup = list(parameters), decay, warmup
        self.averages = [parameter.detach().clone() for parameter in self.parameters]

    def update(self, step: int) -> None:
        """θ̄ after step `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay * (step > 0)
        torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def reset(self) -> None:
        """Starts again at the parameters' values."""
        for average, parameter in zip(self.averages, self.parameters, strict=True):
            average.copy_(parameter.detach())

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the parameters have the averages' values, and `averages` theirs."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self.parameters, self.averages, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)
