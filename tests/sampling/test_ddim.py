"""DDIM against its equations (arXiv:2010.02502, equation 12) for timesteps that are spread in any way."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from tether.sampling.ddim import DDIM

from ..tiny import NOISE_SCHEDULE

GAUSSIAN = 0.5
"""Standard deviation of the data that the denoiser of these tests knows."""


def ideal_noise(latents: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """E[ε | z_t] for data that are normal with the variance GAUSSIAN²."""
    return latents * (1 - alpha) ** 0.5 / (alpha * GAUSSIAN**2 + 1 - alpha)


def walked(scheduler: DDIMScheduler, steps: int) -> torch.Tensor:
    scheduler.set_timesteps(steps)
    latents = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for timestep in scheduler.timesteps:
        prediction = ideal_noise(latents, scheduler.alphas_cumprod[timestep])
        latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
    return latents


def by_the_equations(scheduler: DDIMScheduler, steps: int) -> torch.Tensor:
    scheduler.set_timesteps(steps)
    latents = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    alphas = [scheduler.alphas_cumprod[timestep] for timestep in scheduler.timesteps]
    for alpha, following in zip(alphas, [*alphas[1:], scheduler.final_alpha_cumprod], strict=True):
        noise = ideal_noise(latents, alpha)
        clean = (latents - (1 - alpha) ** 0.5 * noise) / alpha**0.5
        latents = following**0.5 * clean + (1 - following) ** 0.5 * noise
    return latents


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [8, 30, 70, 600])
def test_each_step_goes_to_the_next_timestep(spacing: str, steps: int) -> None:
    settings = NOISE_SCHEDULE | {"timestep_spacing": spacing, "steps_offset": 0}
    ours = walked(DDIM.from_config(settings), steps)
    torch.testing.assert_close(ours, by_the_equations(DDIM.from_config(settings), steps), rtol=1e-4, atol=1e-5)


def test_diffusers_does_not_where_the_timesteps_are_not_even() -> None:
    settings = NOISE_SCHEDULE | {"timestep_spacing": "trailing"}
    theirs, right = DDIMScheduler.from_config(settings), DDIM.from_config(settings)
    assert (walked(theirs, 600) - by_the_equations(right, 600)).norm() > 0.05 * by_the_equations(right, 600).norm()
    right.as_diffusers = True
    assert torch.equal(walked(right, 600), walked(theirs, 600))


def test_leading_timesteps_give_the_bits_of_diffusers() -> None:
    for steps in (7, 20, 50):
        assert torch.equal(
            walked(DDIM.from_config(NOISE_SCHEDULE), steps), walked(DDIMScheduler.from_config(NOISE_SCHEDULE), steps)
        )
