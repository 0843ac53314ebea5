"""Denoisers and controls whose output shows what went in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tether.base.denoiser import Denoiser
from tether.control import Conditioning, Control, Injection, Signal
from tether.sampling import Guidance, Steering, make_step

BATCH, TOKENS, WIDTH = 2, 7, 12


class FakeControl(Control):
    """A signal of latents times t, plus the first text token, plus the hint."""

    def __init__(self, pools_globally: bool = False) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Any, Conditioning, Tensor]] = []
        self.pools = pools_globally
        self.weight = nn.Parameter(torch.zeros(1))

    @property
    def pools_globally(self) -> bool:
        return self.pools

    def encode(self, condition: Tensor) -> Tensor:
        return condition

    def signal(self, latents: Tensor, timestep: Any, conditioning: Conditioning, hint: Tensor) -> Signal:
        self.calls.append((latents, timestep, conditioning, hint))
        t = torch.as_tensor(timestep, dtype=torch.float32).reshape(-1, 1, 1, 1)
        full = latents * t + conditioning.tokens[:, :1, :1, None] + hint
        return Signal({"skip.0": full, "skip.1": full[..., ::2, ::2] * 2, "middle": full[..., ::4, ::4] * 3})


class FakeDenoiser(Denoiser):
    """A prediction of latents plus the first text token, plus the signal at full size."""

    def __init__(self) -> None:
        self.network = nn.Identity()
        self.calls: list[tuple[Tensor, Any, Conditioning, Signal | None]] = []

    def predict(
        self, latents: Tensor, timestep: Any, conditioning: Conditioning, signal: Signal | None = None
    ) -> Tensor:
        self.calls.append((latents, timestep, conditioning, signal))
        full = latents + conditioning.tokens[:, :1, :1, None]
        return full if signal is None else full + signal["skip.0"]

    @property
    def signal(self) -> Signal:
        """The last signal that it was called with."""
        signal = self.calls[-1][-1]
        assert signal is not None
        return signal


def random_text(seed: int, **extras: Tensor) -> Conditioning:
    generator = torch.Generator().manual_seed(seed)
    return Conditioning(torch.randn(BATCH, TOKENS, WIDTH, generator=generator), extras=extras)


def random_hint(seed: int = 0, batch: int = BATCH) -> Tensor:
    return torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def latents_of(seed: int = 0) -> Tensor:
    return torch.randn(BATCH, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


GUIDED = Guidance(random_text(1), random_text(2), 3.0)
UNGUIDED = Guidance(random_text(1))
TIMESTEPS = torch.tensor([100, 500])


def signal_of(
    *steering: tuple[Control, Injection, Tensor], guidance: Guidance = GUIDED, timestep: Tensor = TIMESTEPS
) -> Signal | None:
    """The signal that a denoiser is called with at the first of ten steps."""
    denoiser = FakeDenoiser()
    each = [Steering(control, hint, injection) for control, injection, hint in steering]
    make_step(denoiser, each, guidance, 10)(latents_of(), timestep, 0)
    return denoiser.calls[-1][-1]
