"""Where the denoising loop starts: from noise, or from an image noised part of the way (image-to-image, inpainting).

Every image has a random generator of its own, so that it does not depend on the others in its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tether.base import Base
from tether.control.injection import is_inside
from tether.images import fit, to_pixels, to_rgb
from tether.sampling.inpaint import Inpainting, inpainting_of
from tether.sampling.request import Request

__all__ = ["Start", "idle_values", "initial_noise", "skipped_steps", "start_of"]


@dataclass(frozen=True)
class Start:
    """The start of a run.

    Attributes:
        latents: `(B, C, h, w)`, noised to the level of the first timestep that runs.
        skipped: number of steps before it that do not run.
        inpainting: what to keep of an image; None without a mask.
    """

    latents: Tensor
    skipped: int = 0
    inpainting: Inpainting | None = None


def initial_noise(generators: Sequence[torch.Generator], size: tuple[int, int], base: Base) -> Tensor:
    """Standard normal `(B, C, h, w)` for images of a size (width, height), each from its own generator, drawn on the
    CPU in float32."""
    width, height = (side // base.latent_factor for side in size)
    shape = (base.vae.config["latent_channels"], height, width)
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    return noise.to(base.device, base.dtype)


def skipped_steps(scheduler: Any, steps: int, denoising_strength: float, *, counted: bool = True) -> int:
    """How many of the first steps image-to-image skips: the last `int(steps * denoising_strength)` steps run.

    Args:
        scheduler: its timesteps are set; it is given the index of the first one that runs.
        steps: the number of all steps.
        denoising_strength: in (0, 1].
        counted: whether it is given the index 0 too, so that it finds noise levels by counting its steps. By timesteps
            it finds others, where timesteps that are rounded repeat.
    """
    skipped = steps - min(int(steps * denoising_strength), steps)
    if (skipped or counted) and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped * scheduler.order)
    return skipped


def start_of(
    request: Request,
    base: Base,
    size: tuple[int, int],
    scheduler: Any,
    noise: Tensor,
    generators: Sequence[torch.Generator] = (),
) -> Start:
    """The start of a request's run.

    Args:
        request: `init`, `mask`, `denoising_strength`, `fit`, `steps` and `rules` count.
        base: encodes `init`.
        size: width and height in pixels.
        scheduler: its timesteps are set.
        noise: from `initial_noise`.
        generators: one an image, for samples of the posterior (`init_latents`).
    """
    if request.init is None:
        skipped_steps(scheduler, request.steps, 1.0)
        return Start(noise * scheduler.init_noise_sigma)
    pixels = to_pixels(fit(to_rgb(request.init), *size, request.fit))
    counted = request.mask is None or request.rules > 4
    skipped = skipped_steps(scheduler, request.steps, request.denoising_strength, counted=counted)
    if request.init_latents == "sample":
        known = torch.cat([base.encode_images(pixels, generator) for generator in generators])
    else:
        known = base.encode_images(pixels).expand(len(noise), -1, -1, -1)
    first = scheduler.timesteps[skipped * scheduler.order :][:1]
    whole = skipped == 0 and request.mask is not None
    latents = noise * scheduler.init_noise_sigma if whole else scheduler.add_noise(known, noise, first)
    if request.mask is None:
        return Start(latents, skipped)
    mask = fit(request.mask, *size, request.fit)
    return Start(latents, skipped, inpainting_of(base, pixels, known, mask, request.rules))


def idle_values(request: Request, start: Start, base: Base) -> list[str]:
    """One line for each value of a request beside its controls that leaves something out, for people."""
    lines = []
    if start.inpainting is not None and not start.inpainting.mask.any():
        lines.append("mask is black everywhere: nothing of init is generated anew")
    if request.rules > 1 and request.guidance_scale == 0:
        lines.append("the prompt has no effect: guidance_scale is 0; for no guidance it is 1")
    asked = {
        "negative_prompt": request.negative_prompt,
        "guidance_rescale": request.guidance_rescale,
        "guidance_window": request.guidance_window != (0.0, 1.0),
    }
    steps = request.steps - start.skipped
    reason = None
    if base.denoiser.spec.distilled_guidance:
        reason = "the base has learned its guidance, and takes the scale alone"
    elif request.guidance_scale == 1:
        reason = "a guidance_scale of 1 turns guidance off"
    if reason is not None:
        lines += [f"{name} has no effect: {reason}" for name, is_asked in asked.items() if is_asked]
    elif not any(is_inside(request.guidance_window, step, steps) for step in range(steps)):
        window = "-".join(f"{edge:g}" for edge in request.guidance_window)
        lines.append(f"guidance has no effect: none of the {steps} steps lies in guidance_window {window}")
    return lines
