"""What the trainer is fed: batches, requested by the numbers of their samples.

Sample n of a run is a function of the run's seed and of n alone. So a run that was stopped continues with the same
samples; a batch may be split over processes or forward passes without changing a sample; and "the exact place in the
data" is one number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from tether.control.conditioning import Conditioning
from tether.errors import TetherError
from tether.training.performance.memory import layout

__all__ = ["Batch", "Batches", "Prefetch", "Randomness", "batch_generator", "sample_generators", "stacked"]

Randomness = torch.Generator | Sequence[torch.Generator]
"""The source of a batch's noise and timesteps: one generator, or one per sample."""

_TOLERANCE = 1e-2  # a condition that was resized or stored in half precision may leave its range by rounding


@dataclass(frozen=True)
class Batch:
    """What one forward pass learns from.

    Attributes:
        latents: clean latents `(B, C, h, w)`, scaled.
        conditions: `(B, C, H, W)` in the value range of their kind; uint8 is divided by 255.
        conditioning: the encoded prompts, of the empty prompt where a prompt is dropped.
        names: one name per sample, for messages.
        rows: number of each sample in its data source, for auxiliary losses.
        captions: prompt of each sample, "" where it is dropped, for auxiliary losses.
        randomness: source of noise and timesteps, if the batch has one of its own.
        kinds: the kind of each sample's condition, for a control of several kinds.
    """

    latents: Tensor
    conditions: Tensor
    conditioning: Conditioning
    names: Sequence[str] = ()
    rows: Sequence[int] = ()
    captions: Sequence[str] = ()
    randomness: Randomness | None = None
    kinds: Sequence[str] = ()

    def to(
        self,
        device: torch.device,
        memory_format: torch.memory_format | None = None,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> Self:
        """The batch on a device, latents and conditions in its layout, conditions as float.

        Args:
            device: where it is put.
            memory_format: the layout; the device's best one by default.
            value_range: of the conditions. Those of floating point are checked here, on the CPU, so that no encoder
                has to wait for the device to look at them.

        Raises:
            TetherError: when conditions of floating point are outside of it.
        """
        memory_format, (lowest, highest) = memory_format or layout(device), value_range
        conditions = self.conditions
        if conditions.is_floating_point() and conditions.device.type == "cpu":
            low, high = (float(value) for value in conditions.aminmax())
            if not (low >= lowest - _TOLERANCE and high <= highest + _TOLERANCE):  # written so that NaN fails
                raise TetherError(
                    f"conditions have values in [{low:.3g}, {high:.3g}]; expected [{lowest:g}, {highest:g}]"
                )
        conditions = conditions.to(device, non_blocking=True)
        if conditions.dtype == torch.uint8:
            conditions = conditions.float().div_(255)
        return replace(
            self,
            latents=self.latents.to(device, torch.float32, non_blocking=True, memory_format=memory_format),
            conditions=conditions.contiguous(memory_format=memory_format),
            conditioning=self.conditioning.to(device),
        )


Batches = Callable[[range], Batch]
"""Gives the batch of the samples with these numbers. The same numbers must always give the same batch."""


def stacked(conditions: Sequence[Tensor]) -> Tensor:
    """Conditions `(C, H, W)` as `(B, C, H, W)`: uint8, or float32 if one of them is, as those with holes are."""
    if any(condition.is_floating_point() for condition in conditions):
        conditions = [one if one.is_floating_point() else one.float() / 255 for one in conditions]
    return torch.stack(list(conditions))


def sample_generators(seed: int, samples: range, stream: int = 0) -> list[torch.Generator]:
    """One random generator per sample, from the run's seed, the sample's number and a stream (noise, prompts, ...)."""
    generators = []
    for number in samples:
        # PyTorch seeds with 32 bits. An odd factor makes n -> k n (mod 2^32) a bijection: no two samples share one.
        mixed = (number * 0x9E3779B1 + seed * 0x85EBCA77 + stream * 0xC2B2AE3D) % 2**32
        generators.append(torch.Generator().manual_seed(mixed))
    return generators


def batch_generator(seed: int, samples: range) -> torch.Generator:
    """The random generator of a batch, for `randomness: batch`: of seed 10⁶ s + k for batch k, counted from 0."""
    return torch.Generator().manual_seed(seed * 10**6 + samples.start // len(samples))


class Prefetch:
    """Prepares the batches that are likely to be requested next in threads, while the current one trains."""

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
