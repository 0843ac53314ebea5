"""The scheduler of a request: its sampler with the steps spread over the base's timesteps."""

from __future__ import annotations

from typing import Any

from tether.base import Base
from tether.sampling.request import Request
from tether.sampling.samplers import SCHEDULERS, make_scheduler, set_former_steps, set_steps

__all__ = ["scheduler_of", "spacing_of"]


def scheduler_of(request: Request, base: Base) -> Any:
    """A fresh scheduler with its timesteps set, on the base's device.

    A request of the first rules is run as those versions ran it; see `Request.rules`.

    Raises:
        TetherError: when the sampler cannot spread the steps.
    """
    name, steps, device = request.scheduler, request.steps, base.device
    former = request.rules == 1 and request.spacing is None
    scheduler = make_scheduler(name, base.noise_schedule, spacing=request.spacing, sigmas=request.sigmas, former=former)
    if former:
        set_former_steps(scheduler, name, steps, device)
    else:
        set_steps(scheduler, name, steps, device, fixed=request.spacing is not None)
    return scheduler


def spacing_of(request: Request, base: Base) -> Any:
    """The spacing that a request is run with, for its file; None for a sampler without one.

    Raises:
        TetherError: as `scheduler_of`.
    """
    scheduler = scheduler_of(request, base)
    former = request.rules == 1 and request.spacing is None
    return None if former or not SCHEDULERS[request.scheduler].spacings else scheduler.config.get("timestep_spacing")
