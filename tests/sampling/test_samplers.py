"""The samplers against diffusers, and a new one in one entry."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)

import tether
from tether.base import Base
from tether.errors import TetherError
from tether.sampling import SCHEDULERS, Request, Sampler, make_scheduler
from tether.sampling.samplers import set_steps, step_arguments

from ..tiny import NOISE_SCHEDULE

PEERS = {
    "ddim": DDIMScheduler,
    "dpmpp-2m": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "euler-a": EulerAncestralDiscreteScheduler,
    "lcm": LCMScheduler,
}


def test_every_sampler_has_a_peer_here() -> None:
    assert set(SCHEDULERS) == set(PEERS)


@pytest.mark.parametrize("name", PEERS)
def test_a_scheduler_walks_as_the_one_that_diffusers_makes_of_the_bases_settings(name: str) -> None:
    peer: Any = PEERS[name]
    walks = []
    for scheduler in (make_scheduler(name, NOISE_SCHEDULE), peer.from_config(NOISE_SCHEDULE)):
        scheduler.set_timesteps(7)
        random, noise = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
        latents = torch.randn(1, 4, 8, 8, generator=random) * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            prediction = 0.3 * scheduler.scale_model_input(latents, timestep).roll(1, -1)
            arguments = step_arguments(name, [noise])
            latents = scheduler.step(prediction, timestep, latents, return_dict=False, **arguments)[0]
        walks.append((scheduler.timesteps, latents))
    assert torch.equal(walks[0][0], walks[1][0])
    assert torch.equal(walks[0][1], walks[1][1])


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_table_says_which_schedulers_take_a_generator(name: str) -> None:
    sampler = SCHEDULERS[name]
    assert sampler.takes_generator == ("generator" in inspect.signature(sampler.scheduler.step).parameters)


@pytest.mark.parametrize("name", ["dpmpp-2m", "unipc", "ddim", "euler", "euler-a"])
def test_up_to_a_hundred_steps_all_counts_are_spread(name: str) -> None:
    for steps in range(1, 101):
        scheduler = make_scheduler(name, NOISE_SCHEDULE)
        set_steps(scheduler, name, steps, torch.device("cpu"))
        assert len(scheduler.timesteps.unique()) == steps


@pytest.mark.parametrize("name", ["dpmpp-2m", "unipc", "ddim", "euler", "euler-a"])
def test_trailing_spacing_makes_as_many_steps_as_are_asked_for(name: str) -> None:
    """diffusers makes 62 timesteps of 61 steps, the last of them -1."""
    for steps in (60, 61, 62, 103, 121, 122, 201, 206, 1000):
        scheduler = make_scheduler(name, NOISE_SCHEDULE, spacing="trailing")
        set_steps(scheduler, name, steps, torch.device("cpu"), fixed=True)
        assert len(scheduler.timesteps) == steps
        assert scheduler.timesteps[0] == 999
        assert 0 <= scheduler.timesteps[-1] <= 17
        if hasattr(scheduler, "sigmas"):
            assert len(scheduler.sigmas) == steps + 1
            assert (scheduler.sigmas[1:] < scheduler.sigmas[:-1]).all()
    former = make_scheduler(name, NOISE_SCHEDULE, spacing="trailing")
    set_steps(former, name, 62, torch.device("cpu"), fixed=True, exact=False)
    assert len(former.timesteps) == 62


@pytest.mark.parametrize(
    ("name", "steps", "message"),
    [
        ("lcm", 51, "lcm takes from 1 to 50 steps, not 51"),
        ("ddim", 1001, "ddim cannot spread 1001 steps over this base's 1000 timesteps"),
        ("euler", 1001, "cannot spread 1001 steps"),
    ],
)
def test_more_steps_than_can_be_spread_are_refused(tiny_base: Base, name: str, steps: int, message: str) -> None:
    with pytest.raises(TetherError, match=message):
        set_steps(make_scheduler(name, tiny_base.noise_schedule), name, steps, torch.device("cpu"))


def test_ddim_does_not_clip_latents_if_the_schedule_does_not_say_so() -> None:
    assert make_scheduler("ddim", {"beta_schedule": "scaled_linear"}).config["clip_sample"] is False


def test_an_unknown_scheduler_is_refused() -> None:
    with pytest.raises(TetherError, match="unknown scheduler 'heun': choose one of ddim, dpmpp-2m"):
        make_scheduler("heun", NOISE_SCHEDULE)


def test_a_new_sampler_is_one_entry(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCHEDULERS, "heun", Sampler(HeunDiscreteScheduler))
    pipeline = tether.Pipeline(tiny_base)
    options: dict[str, Any] = {"seed": 1, "steps": 3, "output": "latents"}
    latents = [pipeline("a cube", scheduler=name, **options) for name in ("heun", "euler")]
    assert all(isinstance(one, torch.Tensor) and one.isfinite().all() for one in latents)
    assert not torch.equal(*latents)  # type: ignore[arg-type]
    assert Request(prompt="x", scheduler="heun").scheduler == "heun"
