"""The denoising loop: z_T -> z_0, with any number of controls.

    for t in T..1:  r = Σ_k w_k r_k(z_t, t, c)                     (tether.control.combine)
                    ε = guidance(ε_θ(z_t, t, c; r))                (classifier-free guidance)
                    z_{t-1} = scheduler(z_t, ε, t)

Every picture has its own random generator, so that a picture does not depend on its neighbours in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tether.base import Base
from tether.base.text import TextStates
from tether.control import ControlNet, Injection, Residuals, combine, predict_noise
from tether.sampling.guidance import classifier_free_guidance

__all__ = ["Conditions", "Inpainting", "Step", "denoise", "initial_noise", "start_from"]


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


@dataclass
class Conditions:
    """One condition of each control, encoded once: `hints[k]` is `(B, C0, h, w)`, or `(1, C0, h, w)` for all."""

    controls: Sequence[ControlNet] = ()
    hints: Sequence[Tensor] = ()
    injections: Sequence[Injection] = field(default_factory=tuple)


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
    base: Base,
    latents: Tensor,
    conditional: TextStates,
    unconditional: TextStates | None,
    scheduler: Any,
    conditions: Conditions,
    *,
    guidance_scale: float,
    generators: Sequence[torch.Generator],
    start: int = 0,
    inpainting: Inpainting | None = None,
    noise: Tensor | None = None,
    added: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Tensor:
    """Runs the loop.

    Args:
        base: the locked model.
        latents: `(B, 4, h, w)`, noise at the scheduler's first used timestep.
        conditional: text states of the prompts.
        unconditional: text states of the negative prompts; None leaves classifier-free guidance out.
        scheduler: a diffusers scheduler whose timesteps are set.
        conditions: controls with their encoded conditions.
        guidance_scale: s of classifier-free guidance.
        generators: one a picture, for samplers that add noise.
        start: index of the first timestep that runs (image-to-image).
        inpainting: what to keep.
        noise: the noise that `latents` started from; needed with `inpainting`.
        added: SDXL's added conditions, unconditional and conditional.
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
        residuals = combine(
            conditions.controls,
            conditions.injections,
            conditions.hints,
            model_input,
            timestep,
            unconditional.states if unconditional else None,
            conditional.states,
            step=index,
            total_steps=len(timesteps),
            added_uncond=added[0] if added else None,
            added_cond=added[1] if added else None,
        )
        prediction = _predict(base, model_input, timestep, conditional, unconditional, residuals, inpainting, added)
        if unconditional is not None:
            prediction = classifier_free_guidance(prediction, guidance_scale)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False, **options)[0]
        if inpainting is not None and base.unet.config["in_channels"] == latents.shape[1]:
            latents = _keep_known(scheduler, latents, inpainting, noise, timesteps, index)
        if on_step is not None:
            denoised = _denoised(scheduler, model_input, prediction, float(timestep))
            on_step(Step(index, len(timesteps), float(timestep), latents, denoised))
    return latents


def _predict(
    base: Base,
    model_input: Tensor,
    timestep: Tensor,
    conditional: TextStates,
    unconditional: TextStates | None,
    residuals: Residuals | None,
    inpainting: Inpainting | None,
    added: tuple[dict[str, Tensor], dict[str, Tensor]] | None,
) -> Tensor:
    """One call of the locked denoiser on [unconditional, conditional], `(2B, 4, h, w)`; or `(B, ...)` unguided."""
    if inpainting is not None and inpainting.masked is not None:
        model_input = torch.cat([model_input, inpainting.mask, inpainting.masked], dim=1)
    states, extra = conditional.states, added[1] if added else None
    if unconditional is not None:
        model_input = torch.cat([model_input, model_input])
        states = torch.cat([unconditional.states, states])
        if added:
            extra = {key: torch.cat([added[0][key], added[1][key]]) for key in added[1]}
    return predict_noise(base.unet, model_input, timestep, states, residuals, extra)


def _denoised(scheduler: Any, model_input: Tensor, prediction: Tensor, timestep: float) -> Tensor:
    """z_0 out of z_t = sqrt(ā) z_0 + sqrt(1 - ā) ε and the prediction of ε or of v = sqrt(ā) ε - sqrt(1 - ā) z_0.

    Every scheduler's scaled model input is z_t in this form; ā is interpolated where a timestep is a fraction.
    """
    alphas, below = scheduler.alphas_cumprod, min(int(timestep), len(scheduler.alphas_cumprod) - 2)
    alpha = float(torch.lerp(alphas[below], alphas[below + 1], timestep - below))
    if scheduler.config.prediction_type == "v_prediction":
        return alpha**0.5 * model_input - (1 - alpha) ** 0.5 * prediction
    return (model_input - (1 - alpha) ** 0.5 * prediction) / alpha**0.5


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
