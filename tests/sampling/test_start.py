"""Where a run starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from tether.base import Base
from tether.images import to_pixels
from tether.sampling import Request, make_scheduler
from tether.sampling.inpaint import Inpainting
from tether.sampling.start import Start, idle_values, initial_noise, skipped_steps, start_of
from tether.sampling.steps import scheduler_of


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_each_image_has_noise_of_its_own_seed(tiny_base: Base) -> None:
    both = initial_noise(generators(3, 4), (64, 48), tiny_base)
    assert both.shape == (2, 4, 6, 8)
    assert torch.equal(both[1:], initial_noise(generators(4), (64, 48), tiny_base))


@pytest.mark.parametrize(("steps", "strength", "skipped"), [(10, 0.6, 4), (10, 1.0, 0), (3, 0.5, 2), (20, 0.99, 1)])
def test_the_last_steps_times_strength_run(tiny_base: Base, steps: int, strength: float, skipped: int) -> None:
    scheduler = make_scheduler("euler", tiny_base.noise_schedule)
    scheduler.set_timesteps(steps)
    assert skipped_steps(scheduler, steps, strength) == skipped
    assert (scheduler.begin_index or 0) == skipped


def test_an_image_starts_at_the_noise_level_of_its_first_timestep(tiny_base: Base) -> None:
    init = Image.new("RGB", (64, 64), (200, 90, 40))
    noise = initial_noise(generators(0), (64, 64), tiny_base)
    request = Request(prompt="", init=init, steps=10, denoising_strength=0.3, scheduler="ddim")
    scheduler = make_scheduler("ddim", tiny_base.noise_schedule)
    scheduler.set_timesteps(10)
    start = start_of(request, tiny_base, (64, 64), scheduler, noise)
    a, s = tiny_base.noise.scales(scheduler.timesteps[7:8])
    known = (start.latents - s * noise) / a
    assert start.skipped == 7
    assert start.inpainting is None
    torch.testing.assert_close(known, tiny_base.encode_images(to_pixels(init)), atol=1e-4, rtol=1e-4)


def test_a_mask_at_full_strength_starts_from_noise_alone(tiny_base: Base) -> None:
    image = Image.new("RGB", (64, 64), (200, 90, 40))
    noise = initial_noise(generators(0), (64, 64), tiny_base)
    scheduler = make_scheduler("euler", tiny_base.noise_schedule)
    scheduler.set_timesteps(5)
    request = Request(prompt="", init=image, mask=image, steps=5, denoising_strength=1.0)
    start = start_of(request, tiny_base, (64, 64), scheduler, noise)
    assert torch.equal(start.latents, noise * scheduler.init_noise_sigma)
    assert start.inpainting is not None


def test_a_start_may_be_a_sample_of_the_posterior(tiny_base: Base) -> None:
    image = Image.new("RGB", (64, 64), (200, 40, 90))
    scheduler = make_scheduler("ddim", tiny_base.noise_schedule)
    scheduler.set_timesteps(10)
    request = Request(prompt="x", init=image, init_latents="sample", steps=10, count=2)
    noise = torch.zeros(2, 4, 8, 8)

    def started(seed: int) -> torch.Tensor:
        return start_of(request, tiny_base, (64, 64), scheduler, noise, generators(seed, seed + 1)).latents

    assert torch.equal(started(3), started(3))
    assert not torch.equal(started(3)[0], started(3)[1])
    pixels = to_pixels(image)
    alpha = scheduler.alphas_cumprod[scheduler.timesteps[4]] ** 0.5
    expected = tiny_base.encode_images(pixels, torch.Generator().manual_seed(3)) * alpha
    torch.testing.assert_close(started(3)[:1], expected)


def levels_put_back(request: Request, base: Base) -> tuple[torch.Tensor, torch.Tensor]:
    """The share of noise in what inpainting puts back after each step but the last, and that of the next step."""
    scheduler, noise = scheduler_of(request, base), torch.ones(1, 4, 8, 8)
    start = start_of(request, base, (64, 64), scheduler, noise)
    nothing = Inpainting(torch.zeros(1, 1, 8, 8), torch.zeros_like(noise))
    timesteps = scheduler.timesteps[start.skipped :]
    after = nothing.keep_known(scheduler, noise, timesteps)
    assert after is not None
    found = []
    for index, timestep in enumerate(timesteps[:-1]):
        scheduler.step(noise, timestep, noise)
        found.append(after(noise, index).mean())
    sigmas = scheduler.sigmas[start.skipped + 1 : -1]
    return torch.stack(found), sigmas / (1 + sigmas**2).sqrt()


@pytest.mark.parametrize("sampler", ["dpmpp-2m", "unipc"])
@pytest.mark.parametrize(("sigmas", "steps", "former"), [("karras", 50, 0.0357), ("exponential", 20, 0.0292)])
@pytest.mark.parametrize("strength", [1.0, 0.9])
def test_what_is_kept_has_the_noise_level_of_its_step_where_timesteps_repeat(
    tiny_base: Base, sampler: str, sigmas: Any, steps: int, former: float, strength: float
) -> None:
    image = Image.new("RGB", (64, 64))
    request = Request(prompt="", init=image, mask=image, steps=steps, scheduler=sampler, sigmas=sigmas)
    request = request.model_copy(update={"denoising_strength": strength})
    found, expected = levels_put_back(request, tiny_base)
    torch.testing.assert_close(found, expected)
    found, expected = levels_put_back(request.model_copy(update={"rules": 4}), tiny_base)
    if strength < 1:
        torch.testing.assert_close(found, expected)
    else:  # by the rules before, the level of another step with the same timestep
        (wrong,) = (found - expected).abs().gt(1e-5).nonzero()[:1, 0]
        torch.testing.assert_close(found[wrong], torch.tensor(former), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["dpmpp-2m", "unipc"])
@pytest.mark.parametrize("steps", [20, 21, 50])
def test_noise_levels_are_counted_where_rounded_timesteps_repeat(tiny_base: Base, name: str, steps: int) -> None:
    """With zero terminal SNR the first two are both 999, and the second would be taken for the first."""
    schedule = dict(tiny_base.noise_schedule) | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    scheduler = make_scheduler(name, schedule, sigmas="karras")
    scheduler.set_timesteps(steps)
    noise = torch.ones(1, 4, 2, 2)
    latents = start_of(Request(prompt="", steps=steps), tiny_base, (16, 16), scheduler, noise).latents
    for timestep in scheduler.timesteps:
        latents = scheduler.step(-latents, timestep, latents).prev_sample
    assert scheduler.step_index == steps


def test_guidance_that_does_nothing_is_said(tiny_base: Base) -> None:
    start = Start(torch.zeros(1, 4, 8, 8))
    narrow = Request(prompt="", steps=20, guidance_window=(0.31, 0.34))
    assert idle_values(narrow, start, tiny_base) == [
        "guidance has no effect: none of the 20 steps lies in guidance_window 0.31-0.34"
    ]
    unguided = Request(prompt="", guidance_scale=1, negative_prompt="bad", guidance_rescale=0.5)
    assert [line.split()[0] for line in idle_values(unguided, start, tiny_base)] == [
        "negative_prompt",
        "guidance_rescale",
    ]
    assert idle_values(Request(prompt="", guidance_window=(0.3, 0.5)), start, tiny_base) == []
