"""The preview of latents, and the clean latents that a step estimates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import tether
from tether.base import Base
from tether.images import from_pixels, open_image, to_pixels
from tether.sampling import SCHEDULERS, Step
from tether.sampling.preview import LatentPreview
from tether.weights import shipped


def test_a_preview_has_the_colors_of_the_image() -> None:
    base = tether.load_base()
    pixels = to_pixels(open_image(shipped("base").parents[1] / "examples" / "house.webp").resize((128, 128)))
    latents = base.encode_images(pixels)
    (seen,) = LatentPreview(base)(latents)
    assert seen.size == (16, 16)
    wanted = np.asarray(from_pixels(pixels)[0].resize((16, 16), Image.Resampling.BOX), float)
    error = np.abs(np.asarray(seen, float) - wanted).mean()
    assert error < 0.35 * np.abs(wanted.mean() - wanted).mean()


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_denoiser_that_knows_the_answer_is_estimated_exactly(
    tiny_base: Base, scheduler: str, prediction_type: str
) -> None:
    answer = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    tiny_base.noise_schedule = dict(tiny_base.noise_schedule) | {"prediction_type": prediction_type}
    noise_schedule = tether.sampling.make_scheduler("ddim", tiny_base.noise_schedule)

    def knows(latents: torch.Tensor, timestep: torch.Tensor, *_: object, **__: object) -> tuple[torch.Tensor]:
        alpha = noise_schedule.alphas_cumprod[timestep.long()]
        noise = (latents - alpha.sqrt() * answer) / (1 - alpha).sqrt()
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * answer
        return (noise if prediction_type == "epsilon" else velocity,)

    tiny_base.unet.forward = knows  # type: ignore[method-assign]
    steps: list[Step] = []
    tether.Pipeline(tiny_base)("x", steps=4, scheduler=scheduler, on_step=steps.append)
    assert len(steps) == 4
    for step in steps:
        # Some schedulers step on fractions of a timestep, where this denoiser rounds.
        assert (step.denoised - answer).abs().max() < 0.05
