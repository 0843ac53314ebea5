"""The loop: a sampler over a function."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tether.base.noise import noise_process
from tether.sampling import SCHEDULERS, Step, make_scheduler
from tether.sampling.loop import denoise
from tether.sampling.samplers import set_steps, step_arguments

from ..tiny import NOISE_SCHEDULE

NOISE = noise_process(NOISE_SCHEDULE)


def run(
    name: str, step: Any, steps: int = 6, seed: int = 0, dtype: torch.dtype = torch.float32, **options: Any
) -> Tensor:
    scheduler = make_scheduler(name, NOISE_SCHEDULE)
    set_steps(scheduler, name, steps, torch.device("cpu"))
    generators = [torch.Generator().manual_seed(seed + k) for k in range(2)]
    noise = torch.stack([torch.randn(4, 8, 8, generator=one) for one in generators])
    options.setdefault("arguments", step_arguments(name, generators))
    return denoise(step, (noise * scheduler.init_noise_sigma).to(dtype), scheduler, NOISE, **options)


def knows(answer: Tensor) -> Any:
    """A step that predicts the noise that leads to `answer`."""

    def step(latents: Tensor, timestep: Tensor, index: int) -> Tensor:
        a, s = NOISE.scales(timestep.reshape(1))
        return (latents - a * answer) / s

    return step


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_step_that_knows_the_answer_leads_there(name: str) -> None:
    answer = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    # DDIM ends at the lowest noise level of the schedule, s = 0.03.
    assert (run(name, knows(answer), steps=20) - answer).abs().max() < 0.15


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_half_the_precision_leads_to_the_same_latents(name: str, dtype: torch.dtype) -> None:
    def step(latents: Tensor, timestep: Tensor, index: int) -> Tensor:
        assert latents.dtype in (dtype, torch.float32)
        return torch.tanh(latents)

    exact = run(name, step)
    found = run(name, step, dtype=dtype)
    assert found.dtype == dtype
    assert (found - exact).norm() < 0.01 * exact.norm()  # other noise in an ancestral step: more than 0.5


def test_the_step_sees_indices_and_the_callback_what_was_denoised() -> None:
    answer, seen, heard = torch.ones(2, 4, 8, 8), [], list[Step]()

    def step(latents: Tensor, timestep: Tensor, index: int) -> Tensor:
        seen.append((index, float(timestep)))
        return knows(answer)(latents, timestep, index)

    latents = run("ddim", step, steps=5, start=2, on_step=heard.append)
    assert [index for index, _ in seen] == [0, 1, 2]
    assert [(one.index, one.total) for one in heard] == [(0, 3), (1, 3), (2, 3)]
    assert [one.timestep for one in heard] == [timestep for _, timestep in seen]
    assert torch.equal(heard[-1].latents, latents)
    for one in heard:
        torch.testing.assert_close(one.denoised, answer, atol=1e-3, rtol=0)


def test_what_comes_after_a_step_goes_into_the_next() -> None:
    inputs = []

    def step(latents: Tensor, timestep: Tensor, index: int) -> Tensor:
        inputs.append(latents)
        return latents

    last = run("ddim", step, steps=3, after=lambda latents, index: torch.full_like(latents, index))
    assert [float(one.mean()) for one in inputs[1:]] == [0, 1]
    assert float(last.mean()) == 2


def test_noise_that_a_sampler_adds_comes_from_each_images_generator() -> None:
    step = knows(torch.zeros(2, 4, 8, 8))
    torch.manual_seed(1)
    first = run("euler-a", step)
    torch.manual_seed(2)
    assert torch.equal(run("euler-a", step), first)
    shifted = run("euler-a", step, seed=1)
    assert torch.equal(shifted[0], first[1])
