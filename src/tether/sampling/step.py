"""One denoising step as a function: (z_t, t, i) -> the guided prediction. Guidance, CFG branches and windows live here.

    r = Σ_k injection_k(signal_k(z_t, t, c_t, hint_k))         over the controls that are active at step i
    ε = ε_uc + s (ε_c - ε_uc),  [ε_uc, ε_c] = ε_θ(z_t, t, c_t; r)         classifier-free guidance, arXiv:2207.12598

The text of both CFG branches is stacked once a run. A control that acts on the conditional branch alone is run on that
half of the batch alone; a control that is not active is not run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tether.base.denoiser import Denoiser
from tether.control.conditioning import Conditioning
from tether.control.control import Control
from tether.control.injection import Injection
from tether.control.signal import Signal
from tether.errors import TetherError
from tether.sampling.engines import Eager, Engine
from tether.sampling.guidance import classifier_free_guidance

__all__ = ["Guidance", "Predict", "Steering", "make_step", "total_signal"]

Predict = Callable[[Tensor, Tensor, int], Tensor]
"""(latents `(B, C, h, w)`, timestep, step index) -> prediction `(B, C, h, w)`."""


@dataclass(frozen=True)
class Steering:
    """One control with its encoded condition and how it is injected.

    Attributes:
        control: the control.
        hint: what its `encode` gave, of batch B or 1.
        injection: strength, weighting, CFG branches, window and mask.
    """

    control: Control
    hint: Tensor
    injection: Injection = field(default_factory=Injection)


@dataclass(frozen=True)
class Guidance:
    """The text of a run and the scale of classifier-free guidance.

    Attributes:
        conditional: the prompts, of batch B.
        unconditional: the negative prompts, of batch B; None leaves guidance out.
        scale: s.
    """

    conditional: Conditioning
    unconditional: Conditioning | None = None
    scale: float = 1.0

    def stacked(self) -> Conditioning:
        """[unconditional, conditional], of batch 2B; the conditional alone, of batch B, without guidance."""
        if self.unconditional is None:
            return self.conditional
        return Conditioning.guided(self.unconditional, self.conditional)


def make_step(
    denoiser: Denoiser,
    steering: Sequence[Steering],
    guidance: Guidance,
    total_steps: int,
    *,
    engine: Engine | None = None,
    extra_channels: Tensor | None = None,
) -> Predict:
    """The step of one run.

    Args:
        denoiser: the base's.
        steering: the controls.
        guidance: the text and the scale.
        total_steps: n, for the windows.
        engine: what computes denoiser and controls; eager by default.
        extra_channels: `(B, C', h, w)` that the denoiser takes after the latents: mask and masked image of an
            inpainting model. Controls see the latents alone.

    Raises:
        TetherError: when a mask does not fit the batch.
    """
    batch = len(guidance.conditional)
    for one in steering:
        _check_mask(one.injection, batch)
    for one in steering:
        denoiser = one.control.wrap(denoiser)
    denoiser, controls = (engine or Eager()).prepare(denoiser, [one.control for one in steering])
    text = guidance.stacked()
    runs = [_Run(control, one, guidance, text) for control, one in zip(controls, steering, strict=True)]

    def step(latents: Tensor, timestep: Tensor, index: int) -> Tensor:
        signal = total_signal([run for run in runs if run.injection.is_active(index, total_steps)], latents, timestep)
        if extra_channels is not None:
            latents = torch.cat([latents, extra_channels], dim=1)
        if guidance.unconditional is None:
            return denoiser.predict(latents, timestep, text, signal)
        prediction = denoiser.predict(torch.cat([latents, latents]), timestep, text, signal)
        return classifier_free_guidance(prediction, guidance.scale)

    return step


class _Run:
    """One control of a run: which CFG branches it acts on, and its signal where that is the same at every step."""

    def __init__(self, control: Control, steering: Steering, guidance: Guidance, stacked: Conditioning) -> None:
        self.control, self.hint, self.injection = control, steering.hint, steering.injection
        self.conditional, self.stacked = guidance.conditional, stacked
        self.guided = guidance.unconditional is not None
        self.sides = self.injection.acts_on(steering.control.pools_globally)
        self.kept: Signal | None = None

    def on_both(self) -> bool:
        """Whether it is run on both CFG branches."""
        return self.guided and self.sides != "conditional"

    def __call__(self, latents: Tensor, timestep: Tensor) -> Signal:
        """The injected signal: of batch 2B where it acts on both CFG branches, else of batch B."""
        if self.kept is not None:
            return self.kept
        if self.on_both():
            hint = self.hint if len(self.hint) == 1 else torch.cat([self.hint, self.hint])
            signal = self.control(torch.cat([latents, latents]), _twice(timestep), self.stacked, hint)
            signal = self.injection.apply(signal)
            if self.sides != "both":
                signal = signal.first_half_scaled(float(self.sides))
        else:
            signal = self.injection.apply(self.control(latents, timestep, self.conditional, self.hint))
        if not self.control.per_step:
            self.kept = signal
        return signal


def total_signal(runs: Sequence[_Run], latents: Tensor, timestep: Tensor) -> Signal | None:
    """The sum of the controls' signals, of the denoiser's batch; None without controls.

    The order of additions is that of the controls, those on both CFG branches first.
    """
    both = [run(latents, timestep) for run in runs if run.on_both()]
    conditional = [run(latents, timestep) for run in runs if not run.on_both()]
    parts = [_sum(both)] if both else []
    if conditional:
        alone = _sum(conditional)
        parts.append(alone.after_zeros() if runs[0].guided else alone)
    return _sum(parts) if parts else None


def _sum(signals: Sequence[Signal]) -> Signal:
    total = signals[0]
    for signal in signals[1:]:
        total = total + signal
    return total


def _twice(timestep: Tensor) -> Tensor:
    if not isinstance(timestep, Tensor) or timestep.numel() == 1:
        return timestep
    return torch.cat([timestep, timestep])


def _check_mask(injection: Injection, batch: int) -> None:
    mask = injection.mask
    if isinstance(mask, Tensor) and len(mask) not in (1, batch):
        raise TetherError(f"mask has a batch of {len(mask)}; for these latents it must be 1 or {batch}")
