"""What the trainer is fed: batches, asked for by the numbers of their samples.

Sample n of a run is a function of the run's seed and of n alone. So a run that was stopped goes on with the very
samples it would have seen; a batch may be split over processes or forward passes without another sample in it; and
"the exact place in the data" is one number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from tether.training.memory import layout

__all__ = ["Batch", "Batches", "Prefetch", "sample_generators"]


@dataclass(frozen=True)
class Batch:
    """What one forward pass learns from.

    Attributes:
        latents: clean latents `(B, 4, h, w)`, scaled.
        conditions: `(B, C, H, W)` in [0, 1]; uint8 is taken as 0..255.
        text_states: `(B, T, D)`, of empty prompts where the prompt is dropped.
        names: one name a sample, for messages.
        added: SDXL's added conditions, see `tether.control.AddedConditions`.
    """

    latents: Tensor
    conditions: Tensor
    text_states: Tensor
    names: Sequence[str] = ()
    added: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> Self:
        """The batch on a device, latents and conditions in its layout, conditions as float in [0, 1]."""
        memory_format = layout(device)
        conditions = self.conditions.to(device, non_blocking=True)
        if conditions.dtype == torch.uint8:
            conditions = conditions.float().div_(255)
        return type(self)(
            self.latents.to(device, torch.float32, non_blocking=True, memory_format=memory_format),
            conditions.contiguous(memory_format=memory_format),
            self.text_states.to(device, non_blocking=True),
            self.names,
            {name: tensor.to(device, non_blocking=True) for name, tensor in self.added.items()},
        )


Batches = Callable[[range], Batch]
"""Gives the batch of the samples with these numbers. The same numbers must always give the same batch."""


def sample_generators(seed: int, samples: range, stream: int = 0) -> list[torch.Generator]:
    """One random generator a sample, from the run's seed, the sample's number and a stream (noise, prompts, ...)."""
    generators = []
    for number in samples:
        # PyTorch seeds with 32 bits. An odd factor makes n -> k n (mod 2^32) a bijection: no two samples share one.
        mixed = (number * 0x9E3779B1 + seed * 0x85EBCA77 + stream * 0xC2B2AE3D) % 2**32
        generators.append(torch.Generator().manual_seed(mixed))
    return generators


class Prefetch:
    """Prepares the batches that are likely to be asked for next in threads, while the current one trains."""

    def __init__(self, batches: Batches, workers: int) -> None:
        self._batches, self._workers = batches, workers
        self._pool = ThreadPoolExecutor(workers, "batches") if workers else None
        self._ready: dict[range, Future[Batch]] = {}

    def __call__(self, samples: range, following: Sequence[range] = ()) -> Batch:
        """The batch of `samples`; those `following` are prepared, as many as there are workers."""
        if self._pool is None:
            return self._batches(samples)
        wanted = self._ready.pop(samples, None) or self._pool.submit(self._batches, samples)
        self._ready = {key: job for key, job in self._ready.items() if key in following}
        for key in following[: self._workers]:
            if key not in self._ready:
                self._ready[key] = self._pool.submit(self._batches, key)
        return wanted.result()

    def close(self) -> None:
        """Stops the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
