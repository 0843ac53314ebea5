"""One denoising step as a function: (z_t, t, i) -> the guided prediction. CFG branches and windows live here alone.

    r = Σ_k injection_k(signal_k(z_t, t, c_t, hint_k))         over the controls that are active at step i
        (or limited, see `tether.sampling.combine`)
    ε = ε_uc + s (ε_c - ε_uc),  [ε_uc, ε_c] = ε_θ(z_t, t, c_t; r)         classifier-free guidance, arXiv:2207.12598

The text of both CFG branches is stacked once a run. A control that acts on the conditional branch alone is run on that
half of the batch alone; a control that is not active is not run; one whose signal does not depend on the step
(`per_step` is False) is run once, and one that is asked for every k-th step is run there.

Outside of the window of guidance the prediction is ε_c, and nothing is computed for the unconditional branch: guidance
in a middle interval alone gives better images for less work (arXiv:2404.07724).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from operator import add

import torch
from torch import Tensor

from tether.base.deep import Splits
from tether.base.denoiser import Denoiser
from tether.control.conditioning import Conditioning
from tether.control.control import Control
from tether.control.injection import Injection, is_inside
from tether.control.schedule import Schedule
from tether.control.signal import Signal
from tether.errors import TetherError
from tether.sampling.combine import Combine, combined
from tether.sampling.engines import Eager, Engine
from tether.sampling.guidance import Guidance, classifier_free_guidance, rescaled
from tether.sampling.reuse import Deep, DeepFeatures, relative_change

__all__ = ["Predict", "Steering", "make_step"]

Predict = Callable[[Tensor, Tensor, int], Tensor]
"""(latents `(B, C, h, w)`, timestep of one element or `(B,)`, step index) -> prediction `(B, C, h, w)`."""


@dataclass(frozen=True)
class Steering:
    """One control with its encoded condition and how it is injected.

    Attributes:
        control: the control.
        hint: the output of its `encode`, of batch B or 1.
        injection: strength, weighting, CFG branches, window and mask.
        masked_first: whether a control that pools globally is masked before it is pooled, mean(mask * r), or after,
            mask * mean(r); see `Request.rules`.
    """

    control: Control
    hint: Tensor
    injection: Injection = field(default_factory=Injection)
    masked_first: bool = True


def make_step(
    denoiser: Denoiser,
    steering: Sequence[Steering],
    guidance: Guidance,
    total_steps: int,
    *,
    engine: Engine | None = None,
    extra_channels: Tensor | None = None,
    combine: Combine = "sum",
    guidance_window: tuple[float, float] = (0.0, 1.0),
    deep: Deep | None = None,
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
        combine: how the signals of several controls become one.
        guidance_window: (start, end) of the trajectory in which there is guidance; see `Injection.window`.
        deep: how the deep part of the base is reused between steps; by default it is not. Denoisers without `split`
            are run as a whole.

    Raises:
        TetherError: when a mask or a hint does not fit the batch, or the base has no such deep part.
    """
    for one in steering:
        _check_batch(one, len(guidance.conditional))
        denoiser = one.control.wrap(denoiser)
    denoiser, controls = (engine or Eager()).prepare(denoiser, [one.control for one in steering])

    def of(guidance: Guidance) -> Predict:
        kept = None
        if deep is not None and isinstance(denoiser, Splits):
            kept = DeepFeatures(denoiser.split(deep.skips), deep, total_steps)
        return _step(denoiser, controls, steering, guidance, total_steps, extra_channels, combine, kept)

    guided = of(guidance)
    inside = [is_inside(guidance_window, index, total_steps) for index in range(total_steps)]
    if guidance.unconditional is None or all(inside):
        return guided
    plain = of(replace(guidance, unconditional=None))
    return lambda latents, timestep, index: (guided if inside[index] else plain)(latents, timestep, index)


def _step(
    denoiser: Denoiser,
    controls: Sequence[Control],
    steering: Sequence[Steering],
    guidance: Guidance,
    total_steps: int,
    extra_channels: Tensor | None,
    combine: Combine,
    deep: DeepFeatures | None,
) -> Predict:
    """The step with guidance, or without if there is no unconditional branch."""
    stacked = guidance.stacked()
    runs = [_Run(control, one, guidance, stacked) for control, one in zip(controls, steering, strict=True)]

    def step(latents: Tensor, timestep: Tensor, index: int) -> Tensor:
        active = [run.at(index, total_steps) for run in runs if run.injection.is_active(index, total_steps)]
        skips = None if deep is None else deep.serve(index, {id(run): run.strength for run in active})
        signal = _total_signal(active, latents, timestep, combine, skips)
        if extra_channels is not None:
            latents = torch.cat([latents, extra_channels], dim=1)
        predict = denoiser.predict if deep is None else partial(deep.predict, skips is None)
        if guidance.unconditional is None:
            return predict(latents, timestep, stacked, signal)
        prediction = predict(_twice(latents), _for_both(timestep), stacked, signal)
        guided = classifier_free_guidance(prediction, guidance.scale)
        return rescaled(guided, prediction.chunk(2)[1], guidance.rescale) if guidance.rescale else guided

    return step


class _Run:
    """One control of a run: which CFG branches it acts on, and its signal if that is the same at every step."""

    def __init__(self, control: Control, steering: Steering, guidance: Guidance, stacked: Conditioning) -> None:
        self.control, self.hint, self.injection = control, steering.hint, steering.injection
        self.per_step = steering.control.per_step
        self.guided = guidance.unconditional is not None
        self.sides = self.injection.acts_on(steering.control.pools_globally)
        self.on_both = self.guided and self.sides != "conditional"
        self.conditioning = stacked if self.on_both else guidance.conditional
        self.pools_after = steering.masked_first and steering.control.pools_globally and self.injection.mask is not None
        self.arguments = {"pooled": False} if self.pools_after else {}
        self.strength, self.index = 0.0, 0
        self.made: Signal | None = None
        self.made_at, self.rate = 0, math.inf
        self.heights: tuple[int, ...] = ()
        self.kept: tuple[float, Signal] | None = None
        self._shallow: Control | None = None

    def at(self, index: int, total_steps: int) -> _Run:
        """The run with the strength of a step."""
        self.index, self.strength = index, self.injection.strength_at(index, total_steps)
        return self

    def __call__(self, latents: Tensor, timestep: Tensor, skips: int | None = None) -> Signal:
        """The injected signal: of batch 2B if it acts on both CFG branches, else of batch B.

        Args:
            latents: `(B, C, h, w)`.
            timestep: t.
            skips: that of the first skip connections alone, this many.
        """
        if self.kept is None or self.kept[0] != self.strength:
            signal = self._injected(self._made(latents, timestep, skips), latents.shape[-2])
            if self.per_step:
                return signal.first_skips(skips)
            self.kept = (self.strength, signal)
        return self.kept[1].first_skips(skips)

    def _made(self, latents: Tensor, timestep: Tensor, skips: int | None) -> Signal:
        """The control's signal at full strength: a new one, or one that serves this step too."""
        if self.made is not None and self._serves():
            return self.made
        control = self.control if skips is None else self.shallow(skips)
        hint = self.hint
        if self.on_both:
            latents, timestep = _twice(latents), _for_both(timestep)
            hint = hint if len(hint) == 1 else _twice(hint)
        signal = control(latents, timestep, self.conditioning, hint, **self.arguments)
        if skips is None or not self.per_step:
            self._keep(signal)
        return signal

    def _serves(self) -> bool:
        """Whether the signal that was made last serves this step."""
        if not self.per_step:
            return True
        age = self.index - self.made_at
        return age < self.injection.every or self.rate * age <= self.injection.tolerance

    def _keep(self, signal: Signal) -> None:
        """Keeps a signal of all points, if it can serve another step."""
        self.heights = signal.heights
        if self.injection.tolerance and self.made is not None:
            self.rate = relative_change(signal, self.made) / (self.index - self.made_at)
        if (
            self.injection.every > 1 or self.injection.tolerance
            if self.per_step
            else isinstance(self.injection.strength, Schedule)
        ):
            self.made, self.made_at = signal, self.index

    def shallow(self, skips: int) -> Control:
        """The control for the first skip connections."""
        if self._shallow is None:
            self._shallow = self.control.shallow(skips) if self.per_step else self.control
        return self._shallow

    def _injected(self, signal: Signal, height: int) -> Signal:
        """The signal weighted, masked, pooled and shared between the CFG branches."""
        signal = self.injection.apply(signal, height, self.strength, self.heights)
        if self.pools_after:
            signal = signal.pooled()
        if self.on_both and self.sides != "both":
            signal = signal.first_half_scaled(float(self.sides))
        return signal


def _total_signal(
    runs: Sequence[_Run], latents: Tensor, timestep: Tensor, combine: Combine, skips: int | None
) -> Signal | None:
    """The controls' signals as one, of the denoiser's batch; None without controls.

    Those on both CFG branches come first, then those on the conditional branch, each in the order of the controls.
    """
    both = [run(latents, timestep, skips) for run in runs if run.on_both]
    conditional = [run(latents, timestep, skips) for run in runs if not run.on_both]
    if not conditional or not runs[0].guided:
        return combined(both + conditional, combine) if runs else None
    if combine == "sum":  # the conditional half is added before it is doubled
        conditional = [reduce(add, conditional)]
    return combined([*both, *(one.after_zeros() for one in conditional)], combine)


def _twice(tensor: Tensor) -> Tensor:
    """The batch for both CFG branches."""
    return torch.cat([tensor, tensor])


def _for_both(timestep: Tensor) -> Tensor:
    """One timestep serves both CFG branches; `(B,)` become `(2B,)`."""
    return timestep if timestep.numel() == 1 else _twice(timestep)


def _check_batch(steering: Steering, batch: int) -> None:
    mask = steering.injection.mask
    if isinstance(mask, Tensor) and len(mask) not in (1, batch):
        raise TetherError(f"mask has a batch of {len(mask)}; expected 1 or {batch}, the batch of the latents")
    if isinstance(steering.hint, Tensor) and len(steering.hint) not in (1, batch):
        raise TetherError(f"hint has a batch of {len(steering.hint)}; expected 1 or {batch}, the batch of the latents")
