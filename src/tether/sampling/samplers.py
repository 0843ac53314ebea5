"""The samplers, by the names people know. The implementations are diffusers'."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)

from tether.errors import TetherError

__all__ = ["SCHEDULERS", "make_scheduler", "set_steps"]

SCHEDULERS: dict[str, tuple[type[SchedulerMixin], dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {"clip_sample": False}),  # latents are no pixels in [-1, 1]
    "dpmpp-2m": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "unipc": (UniPCMultistepScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler-a": (EulerAncestralDiscreteScheduler, {}),
    "lcm": (LCMScheduler, {}),
}
"""Name -> diffusers class and what Tether sets on it."""

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
"""What describes the noise that a base was trained on; everything else in a saved schedule describes its sampler."""


_SURE_STEPS = 100
_LEAST_FIRST = 0.85  # of all timesteps; a tenth of them is what 10 steps of "leading" leave out


def make_scheduler(name: str, noise_schedule: dict[str, Any]) -> Any:
    """A fresh scheduler for one run.

    Args:
        name: a key of `SCHEDULERS`.
        noise_schedule: the base's schedule, as its `scheduler_config.json` has it.

    Raises:
        TetherError: where the name is unknown.
    """
    if name not in SCHEDULERS:
        raise TetherError(f"unknown scheduler {name!r}: choose one of {', '.join(SCHEDULERS)}")
    scheduler_class, options = SCHEDULERS[name]
    trained_on = {key: noise_schedule[key] for key in TRAINING_KEYS if key in noise_schedule}
    return scheduler_class.from_config({**trained_on, **options})  # type: ignore[attr-defined]


def set_steps(scheduler: Any, name: str, steps: int, device: torch.device) -> None:
    """Spreads steps over a scheduler's timesteps.

    Args:
        scheduler: of `make_scheduler`; changed in place.
        name: its name there, for messages.
        steps: how many.
        device: where its timesteps are put.

    Raises:
        TetherError: where they are more than it can spread: those of "leading" spacing then crowd or begin far below
            the last timestep, which is where pure noise belongs.
    """
    most = scheduler.config.get("original_inference_steps", steps)
    if steps > most:
        raise TetherError(f"{name} takes from 1 to {most} steps, not {steps}")
    scheduler.set_timesteps(steps, device=device)
    first, total = float(scheduler.timesteps[0]), scheduler.config.num_train_timesteps
    if steps > _SURE_STEPS and not _LEAST_FIRST * total <= first < total:
        raise TetherError(
            f"{name} cannot spread {steps} steps over this base's {total} timesteps (the first would be {first:.0f}): "
            f"take {_SURE_STEPS} or fewer"
        )
