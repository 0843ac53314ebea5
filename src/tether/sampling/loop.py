"""The denoising loop: z_T -> z_0, with any number of controls.

    for t in T..1:  ε = step(z_t, t)                               (tether.sampling.step)
                    z_{t-1} = scheduler(z_t, ε, t)

Every picture has its own random generator, so that a picture does not depend on its neighbours in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tether.base import Base
from tether.base.noise import NoiseProcess
from tether.sampling.step import Predict

__all__ = ["Inpainting", "Step", "denoise", "initial_noise", "start_from"]


@dataclass(frozen=True)
class Step:
    """What a callback is told after each step.

    Attributes:
        index: 0 for the first step.
        total: number of steps that run: of image-to-image, those that are left.
        timestep: the timestep just denoised.
        latents: `(B, 4, h, w)` after the step.
        denoised: `(B, 4, h, w)`, the clean latents that the denoiser foresees at this step; what a preview shows.
    """

    index: int
    total: int
    timestep: float
    latents: Tensor
    denoised: Tensor


@dataclass(frozen=True)
class Inpainting:
    """What to keep of a picture while the rest is drawn anew.

    Attributes:
        mask: `(B, 1, h, w)`, 1 where to draw, 0 where to keep.
        known: clean latents `(B, 4, h, w)` of the picture.
        masked: latents of the picture with the masked part grey, for denoisers that take 9 channels.
    """

    mask: Tensor
    known: Tensor
    masked: Tensor | None = None


def initial_noise(generators: Sequence[torch.Generator], shape: tuple[int, int, int], base: Base) -> Tensor:
    """Standard normal `(B, C, h, w)`, each picture from its own generator, drawn on the CPU in float32."""
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    return noise.to(base.device, base.dtype)


def start_from(scheduler: Any, steps: int, strength: float) -> int:
    """How many of the first steps to leave out when a picture is changed with `strength` in (0, 1].

    The rule of image-to-image everywhere: the last `int(steps * strength)` steps run.
    """
    start = steps - min(int(steps * strength), steps)
    if start and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start * scheduler.order)
    return start


@torch.no_grad()
def denoise(
    step: Predict,
    latents: Tensor,
    scheduler: Any,
    noise_process: NoiseProcess,
    *,
    generators: Sequence[torch.Generator],
    start: int = 0,
    inpainting: Inpainting | None = None,
    noise: Tensor | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Tensor:
    """Runs the loop: a sampler over a function.

    Args:
        step: of `make_step`.
        latents: `(B, 4, h, w)`, noise at the scheduler's first used timestep.
        scheduler: a diffusers scheduler whose timesteps are set.
        noise_process: of the base, for `Step.denoised`.
        generators: one an image, for samplers that add noise.
        start: index of the first timestep that runs (image-to-image).
        inpainting: what to keep, where the denoiser itself was not made for inpainting.
        noise: the noise that `latents` started from; needed with `inpainting`.
        on_step: called after each step.

    Returns:
        Clean latents `(B, 4, h, w)`.
    """
    timesteps = scheduler.timesteps[start * scheduler.order :]
    options: dict[str, Any] = {}
    if "generator" in scheduler.step.__code__.co_varnames:
        options["generator"] = list(generators)
    for index, timestep in enumerate(timesteps):
        model_input = scheduler.scale_model_input(latents, timestep)
        prediction = step(model_input, timestep, index)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False, **options)[0]
        if inpainting is not None and inpainting.masked is None:
            latents = _keep_known(scheduler, latents, inpainting, noise, timesteps, index)
        if on_step is not None:
            denoised = noise_process.clean_estimate(model_input, prediction, timestep.reshape(1))
            on_step(Step(index, len(timesteps), float(timestep), latents, denoised))
    return latents


def _keep_known(
    scheduler: Any,
    latents: Tensor,
    inpainting: Inpainting,
    noise: Tensor | None,
    timesteps: Tensor,
    index: int,
) -> Tensor:
    """Puts the known part back, noised to the level of the next timestep."""
    known = inpainting.known
    if index + 1 < len(timesteps) and noise is not None:
        known = scheduler.add_noise(known, noise, timesteps[index + 1 : index + 2])
    return (1 - inpainting.mask) * known + inpainting.mask * latents
