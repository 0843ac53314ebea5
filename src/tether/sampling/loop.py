"""The denoising loop, z_T -> z_0: a sampler over a function.

    for t in T..1:  prediction = step(z_t, t)                      (tether.sampling.step)
                    z_{t-1}    = scheduler(z_t, prediction, t)     (tether.sampling.samplers)

The loop does not see guidance, controls or text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tether.base.noise import NoiseProcess
from tether.sampling.step import Predict

__all__ = ["Step", "denoise"]


@dataclass(frozen=True)
class Step:
    """What a callback receives after each step.

    Attributes:
        index: 0 for the first step.
        total: number of steps that run; with image-to-image, those after its start.
        timestep: the timestep just denoised.
        latents: `(B, C, h, w)` after the step.
        denoised: `(B, C, h, w)`, the clean latents as the denoiser estimates them at this step; for previews.
    """

    index: int
    total: int
    timestep: float
    latents: Tensor
    denoised: Tensor


@torch.no_grad()
def denoise(
    step: Predict,
    latents: Tensor,
    scheduler: Any,
    noise_process: NoiseProcess,
    *,
    start: int = 0,
    widened: bool = True,
    arguments: Mapping[str, Any] | None = None,
    after: Callable[[Tensor, int], Tensor] | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Tensor:
    """Runs the loop.

    Args:
        step: from `make_step`.
        latents: `(B, C, h, w)`, noised to the level of the first timestep that runs.
        scheduler: a diffusers scheduler whose timesteps are set.
        noise_process: of the base, for `Step.denoised`.
        start: number of steps to skip (image-to-image).
        widened: between the steps everything is float32 at least, whatever the networks compute in: what is between two
            float16 latents is not lost at every step, and an ancestral sampler's noise does not depend on the dtype.
        arguments: further arguments of the scheduler's `step`; see `step_arguments`.
        after: (latents, step index) -> latents, applied after each step (inpainting).
        on_step: called after each step.

    Returns:
        Clean latents `(B, C, h, w)`, of the dtype that they came in.
    """
    dtype = latents.dtype
    wide = torch.promote_types(dtype, torch.float32) if widened else dtype
    latents = latents.to(wide)
    timesteps = scheduler.timesteps[start * scheduler.order :]
    for index, timestep in enumerate(timesteps):
        model_input = scheduler.scale_model_input(latents, timestep)
        prediction = step(model_input.to(dtype), timestep, index).to(wide)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False, **(arguments or {}))[0]
        if after is not None:
            latents = after(latents, index)
        if on_step is not None:
            denoised = noise_process.clean_estimate(model_input, prediction, timestep.reshape(1))
            on_step(Step(index, len(timesteps), float(timestep), latents, denoised))
    return latents.to(dtype)
