"""The samplers by name. The implementations are diffusers' schedulers.

A new sampler is one entry of `SCHEDULERS`. Its class, which is imported when it is first used, needs what diffusers'
schedulers share: `from_config`, `set_timesteps`, `timesteps`, `order`, `init_noise_sigma`, `scale_model_input`, `step`
and `add_noise`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, get_args

from tether.errors import TetherError
from tether.formats.sampling import FORMER_SPACING

if TYPE_CHECKING:
    import torch

__all__ = [
    "SCHEDULERS",
    "SPACINGS",
    "Sampler",
    "Sigmas",
    "Spacing",
    "check_choices",
    "check_sampler",
    "make_scheduler",
    "set_former_steps",
    "set_steps",
    "step_arguments",
]

Spacing = Literal["leading", "trailing", "linspace"]
SPACINGS: tuple[str, ...] = get_args(Spacing)
"""How n steps are spread over T timesteps (arXiv:2305.08891, table 2)."""
Sigmas = Literal["karras", "exponential"]
"""How the noise levels are spread instead: as in arXiv:2206.00364, equation 5, or evenly in their logarithm."""


@dataclass(frozen=True)
class Sampler:
    """One sampler.

    Attributes:
        home: a scheduler class of diffusers, or "module:name" of one.
        settings: what Tether sets in its config.
        takes_generator: whether its `step` has an argument `generator`, for the noise that it adds.
        sigmas: the settings of its config for each spread of noise levels that it supports, by name.
        spacings: the spacings that it supports; none for a sampler with timesteps of its own.
        takes_eta: whether its `step` has an argument `eta`, the share of the noise that it adds (arXiv:2010.02502).
    """

    home: Any
    settings: Mapping[str, Any] = field(default_factory=dict)
    takes_generator: bool = False
    sigmas: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    spacings: tuple[str, ...] = SPACINGS
    takes_eta: bool = False

    @property
    def scheduler(self) -> Any:
        """The scheduler class."""
        if not isinstance(self.home, str):
            return self.home
        module, _, name = self.home.partition(":")
        return getattr(import_module(module), name)


_KARRAS_OR_EXPONENTIAL: Mapping[str, Mapping[str, Any]] = {
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
}


SCHEDULERS: dict[str, Sampler] = {
    # arXiv:2010.02502; latents are not pixels in [-1, 1]. It has no "linspace": its equations step by whole timesteps.
    "ddim": Sampler(
        "tether.sampling.ddim:DDIM",
        {"clip_sample": False},
        takes_generator=True,
        spacings=("leading", "trailing"),
        takes_eta=True,
    ),
    # arXiv:2211.01095
    "dpmpp-2m": Sampler(
        "diffusers:DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2},
        takes_generator=True,
        sigmas=_KARRAS_OR_EXPONENTIAL,
    ),
    # arXiv:2302.04867
    "unipc": Sampler("diffusers:UniPCMultistepScheduler", sigmas=_KARRAS_OR_EXPONENTIAL),
    # arXiv:2206.00364
    "euler": Sampler("diffusers:EulerDiscreteScheduler", takes_generator=True, sigmas=_KARRAS_OR_EXPONENTIAL),
    "euler-a": Sampler("diffusers:EulerAncestralDiscreteScheduler", takes_generator=True),
    # arXiv:2310.04378
    "lcm": Sampler("diffusers:LCMScheduler", takes_generator=True, spacings=()),
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
SPREAD_BY_SIGMAS = ("dpmpp-2m", "unipc")
"""Samplers whose timesteps follow from the noise levels where these are spread, whatever the spacing says."""
_LEAST_FIRST = 0.85  # of all timesteps; with 10 steps, "leading" spacing leaves out the last tenth
_LEAST_ASKED = 0.5  # of all timesteps, for a spacing that was asked for


def check_sampler(name: str) -> None:
    """Raises a TetherError when there is no sampler of this name."""
    if name not in SCHEDULERS:
        raise TetherError(f"unknown scheduler {name!r}: choose one of {', '.join(SCHEDULERS)}")


def check_choices(name: str, spacing: str | None, sigmas: str | None, eta: float) -> None:
    """Refuses what a sampler has no use for.

    Raises:
        TetherError: for a spacing or a spread of noise levels that it does not support, or eta where it adds no noise
            by it.
    """
    check_sampler(name)
    sampler = SCHEDULERS[name]
    for what, given, supported in (("spacing", spacing, sampler.spacings), ("sigmas", sigmas, tuple(sampler.sigmas))):
        if given is not None and given not in supported:
            instead = f"choose one of {', '.join(supported)}" if supported else "leave it out"
            raise TetherError(f"{name} does not support {what} {given!r}: {instead}")
    if eta and not sampler.takes_eta:
        takers = ", ".join(each for each, one in SCHEDULERS.items() if one.takes_eta)
        raise TetherError(f"{name} does not take eta: use {takers}, or leave it out")


def make_scheduler(
    name: str,
    noise_schedule: Mapping[str, Any],
    *,
    spacing: str | None = None,
    sigmas: str | None = None,
    former: bool = False,
) -> Any:
    """A fresh scheduler for one run.

    A base trained with zero terminal SNR is sampled with "trailing" spacing unless its settings say "linspace": only
    from the last timestep on is pure noise what it was trained on (arXiv:2305.08891, section 3.3).

    Args:
        name: a key of `SCHEDULERS`.
        noise_schedule: the base's schedule, as in its `scheduler_config.json`.
        spacing: how steps are spread, instead of the base's own spacing.
        sigmas: how noise levels are spread, instead of evenly spaced timesteps.
        former: as before spacings were chosen here; for the requests of older files.

    Raises:
        TetherError: when the name is unknown, or the sampler does not support spacing or sigmas.
    """
    check_choices(name, spacing, sigmas, 0)
    sampler = SCHEDULERS[name]
    trained_on = {key: noise_schedule[key] for key in TRAINING_KEYS if key in noise_schedule}
    if former:
        trained_on.setdefault("timestep_spacing", noise_schedule.get(FORMER_SPACING))
        trained_on = {key: value for key, value in trained_on.items() if key != "timestep_spacing" or value}
    elif sampler.spacings:
        spacing = spacing or _own_spacing(sampler, trained_on)
        trained_on |= {} if spacing is None else {"timestep_spacing": spacing}
    scheduler = sampler.scheduler.from_config(
        {**trained_on, **sampler.settings, **sampler.sigmas.get(sigmas or "", {})}
    )
    if former and name == "ddim":
        scheduler.as_diffusers = True
    return scheduler


def _own_spacing(sampler: Sampler, schedule: Mapping[str, Any]) -> str | None:
    """The spacing that a base's settings ask for; None for the scheduler's default."""
    own = schedule.get("timestep_spacing")
    own = own if own in SPACINGS else None
    if schedule.get("rescale_betas_zero_snr") and own != "linspace":
        return "trailing"
    return "trailing" if own is not None and own not in sampler.spacings else own


def step_arguments(name: str, generators: Sequence[torch.Generator], eta: float = 0) -> dict[str, Any]:
    """The further arguments of a scheduler's `step`: one generator for each image, if it takes them, and eta."""
    arguments: dict[str, Any] = {"generator": list(generators)} if SCHEDULERS[name].takes_generator else {}
    return arguments | ({"eta": eta} if eta else {})


def set_steps(
    scheduler: Any, name: str, steps: int, device: torch.device, *, fixed: bool = False, exact: bool = True
) -> None:
    """Spreads steps over a scheduler's timesteps.

    Pure noise belongs to the last timestep. With "leading" spacing a few steps start far below it (one step: at 1 of
    1,000), and "linspace" puts a single step at 0; such a run would end in noise. The spacing then is "trailing".

    Args:
        scheduler: from `make_scheduler`; changed in place.
        name: its name there, for messages.
        steps: how many.
        device: of its timesteps.
        fixed: whether the spacing was asked for, so that it is kept.
        exact: whether there are as many timesteps as steps; else what diffusers makes of them is left, for the requests
            of older files.

    Raises:
        TetherError: when it cannot spread that many, or a spacing that was asked for starts below half the timesteps.
    """
    most = scheduler.config.get("original_inference_steps", steps)
    if steps > most:
        raise TetherError(f"{name} takes from 1 to {most} steps, not {steps}")
    total = scheduler.config.num_train_timesteps
    if steps > total:
        raise TetherError(
            f"{name} cannot spread {steps} steps over this base's {total} timesteps: use {total} or fewer"
        )
    scheduler.set_timesteps(steps, device=device)
    if not fixed and SCHEDULERS[name].spacings and not _well_spread(scheduler, steps, _LEAST_FIRST):
        scheduler.register_to_config(timestep_spacing="trailing")
        scheduler.set_timesteps(steps, device=device)
    if exact and scheduler.order == 1 and len(scheduler.timesteps) > steps:
        _cut(scheduler, steps)
    if not _well_spread(scheduler, steps, _LEAST_ASKED):
        first = float(scheduler.timesteps[0])
        instead = "use trailing spacing" if fixed else f"use {_SAFE_STEPS} or fewer"
        raise TetherError(
            f"{name} cannot spread {steps} steps over this base's {total} timesteps (the first would be {first:.0f}): "
            f"{instead}"
        )


def _cut(scheduler: Any, steps: int) -> None:
    """Takes out what a scheduler has behind its steps: diffusers spreads "trailing" timesteps by a range of floats,
    which for some numbers of steps (61 of 1,000) rounds to one more, -1."""
    scheduler.timesteps = scheduler.timesteps[:steps]
    scheduler.num_inference_steps = steps
    if getattr(scheduler, "sigmas", None) is not None:
        scheduler.sigmas = scheduler.sigmas[[*range(steps), -1]]  # the last is 0


def set_former_steps(scheduler: Any, name: str, steps: int, device: torch.device) -> None:
    """Spreads steps as they were before spacings were chosen here; for the requests of older files.

    Raises:
        TetherError: when it cannot spread that many.
    """
    most = scheduler.config.get("original_inference_steps", steps)
    if steps > most:
        raise TetherError(f"{name} takes from 1 to {most} steps, not {steps}")
    scheduler.set_timesteps(steps, device=device)


def _well_spread(scheduler: Any, steps: int, least_first: float) -> bool:
    """Whether the timesteps, or the noise levels where it has them, fall from near the last one on."""
    first, total = float(scheduler.timesteps[0]), scheduler.config.num_train_timesteps
    if scheduler.order != 1:  # each timestep comes several times
        return least_first * total <= first < total
    levels = getattr(scheduler, "sigmas", None)
    falling = scheduler.timesteps if levels is None else levels[:steps]
    return least_first * total <= first < total and bool((falling[1:] < falling[:-1]).all())
