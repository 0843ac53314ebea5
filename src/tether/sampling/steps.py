"""The scheduler of a request: its sampler with the steps spread over the base's timesteps."""

from __future__ import annotations

from typing import Any

from tether.base import Base
from tether.sampling.request import Request
from tether.sampling.samplers import (
    SCHEDULERS,
    SPREAD_BY_SIGMAS,
    make_scheduler,
    set_former_steps,
    set_steps,
)

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
        fixed = request.spacing is not None
        set_steps(scheduler, name, steps, device, fixed=fixed, exact=request.rules > 4)
    return scheduler


def spacing_of(request: Request, base: Base) -> Any:
    """The spacing that a request is run with, for its file; None for a sampler without one.

    Raises:
        TetherError: as `scheduler_of`.
    """
    scheduler = scheduler_of(request, base)
    former = request.rules == 1 and request.spacing is None
    spread_by_sigmas = request.sigmas is not None and request.scheduler in SPREAD_BY_SIGMAS
    if former or spread_by_sigmas or not SCHEDULERS[request.scheduler].spacings:
        return None
    return scheduler.config.get("timestep_spacing")
