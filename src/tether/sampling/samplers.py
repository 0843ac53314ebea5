"""The samplers by name. The implementations are diffusers' schedulers.

A new sampler is one entry of `SCHEDULERS`. Its class needs what diffusers' schedulers share: `from_config`,
`set_timesteps`, `timesteps`, `order`, `init_noise_sigma`, `scale_model_input`, `step` and `add_noise`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)

from tether.errors import TetherError

__all__ = ["SCHEDULERS", "Sampler", "check_sampler", "make_scheduler", "set_steps", "step_arguments"]


@dataclass(frozen=True)
class Sampler:
    """One sampler.

    Attributes:
        scheduler: a diffusers scheduler class.
        settings: what Tether sets in its config.
        takes_generator: whether its `step` has an argument `generator`, for the noise that it adds.
    """

    scheduler: Any
    settings: Mapping[str, Any] = field(default_factory=dict)
    takes_generator: bool = False


SCHEDULERS: dict[str, Sampler] = {
    # arXiv:2010.02502; latents are not pixels in [-1, 1]
    "ddim": Sampler(DDIMScheduler, {"clip_sample": False}, takes_generator=True),
    # arXiv:2211.01095
    "dpmpp-2m": Sampler(
        DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}, takes_generator=True
    ),
    # arXiv:2302.04867
    "unipc": Sampler(UniPCMultistepScheduler),
    # arXiv:2206.00364
    "euler": Sampler(EulerDiscreteScheduler, takes_generator=True),
    "euler-a": Sampler(EulerAncestralDiscreteScheduler, takes_generator=True),
    # arXiv:2310.04378
    "lcm": Sampler(LCMScheduler, takes_generator=True),
}
"""Name -> sampler."""

TRAINING_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "steps_offset",
    "set_alpha_to_one",
    "rescale_betas_zero_snr",
    "timestep_spacing",
)
"""The settings of a saved schedule that describe the noise a base was trained on; the others describe its sampler."""

_SAFE_STEPS = 100
_LEAST_FIRST = 0.85  # of all timesteps; with 10 steps, "leading" spacing leaves out the last tenth


def check_sampler(name: str) -> None:
    """Raises a TetherError when there is no sampler of this name."""
    if name not in SCHEDULERS:
        raise TetherError(f"unknown scheduler {name!r}: choose one of {', '.join(SCHEDULERS)}")


def make_scheduler(name: str, noise_schedule: Mapping[str, Any]) -> Any:
    """A fresh scheduler for one run.

    Args:
        name: a key of `SCHEDULERS`.
        noise_schedule: the base's schedule, as in its `scheduler_config.json`.

    Raises:
        TetherError: when the name is unknown.
    """
    check_sampler(name)
    sampler = SCHEDULERS[name]
    trained_on = {key: noise_schedule[key] for key in TRAINING_KEYS if key in noise_schedule}
    return sampler.scheduler.from_config({**trained_on, **sampler.settings})


def step_arguments(name: str, generators: Sequence[torch.Generator]) -> dict[str, Any]:
    """The further arguments of a scheduler's `step`: one generator for each image, if it takes them."""
    return {"generator": list(generators)} if SCHEDULERS[name].takes_generator else {}


def set_steps(scheduler: Any, name: str, steps: int, device: torch.device) -> None:
    """Spreads steps over a scheduler's timesteps.

    Args:
        scheduler: from `make_scheduler`; changed in place.
        name: its name there, for messages.
        steps: how many.
        device: of its timesteps.

    Raises:
        TetherError: when it cannot spread that many: with "leading" spacing they then crowd, or start far below the
            last timestep, which is where pure noise belongs.
    """
    most = scheduler.config.get("original_inference_steps", steps)
    if steps > most:
        raise TetherError(f"{name} takes from 1 to {most} steps, not {steps}")
    scheduler.set_timesteps(steps, device=device)
    first, total = float(scheduler.timesteps[0]), scheduler.config.num_train_timesteps
    if steps > _SAFE_STEPS and not _LEAST_FIRST * total <= first < total:
        raise TetherError(
            f"{name} cannot spread {steps} steps over this base's {total} timesteps (the first would be {first:.0f}): "
            f"use {_SAFE_STEPS} or fewer"
        )
