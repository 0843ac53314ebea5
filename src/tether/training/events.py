"""What a trainer reports: validations, progress, and how a run ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, Self

from tether.control.control import Control

__all__ = ["Outcome", "Progress", "Validation", "Validator"]


@dataclass(frozen=True)
class Validation:
    """Mean condition fidelity of the validation images, with their prompts and without.

    None if the kind of condition has no metric.
    """

    step: int
    fidelity: float | None
    without_prompt: float | None

    def to_json(self) -> dict[str, Any]:
        """As it is in `state.json` and `result.json`, where fidelity is named "obedience"."""
        return {"step": self.step, "obedience": self.fidelity, "without_prompt": self.without_prompt}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The reverse of `to_json`."""
        return cls(values["step"], values["obedience"], values["without_prompt"])


class Validator(Protocol):
    """Draws validation images with a control and measures their condition fidelity."""

    def __call__(self, step: int, control: Control) -> Validation: ...


@dataclass(frozen=True)
class Progress:
    """What `on_progress` gets after every step, on the main process.

    Attributes:
        step, steps: steps done, and of how many.
        loss: mean diffusion loss of the step.
        learning_rate, gradient_norm: of the step; the norm is that before clipping.
        samples_per_second, seconds_left: speed, and the time that is left at this speed.
        validation: the latest one.
        appeared_at: the step at which control appeared, from the validation that showed it.
        auxiliary: mean of each auxiliary loss of the step, before its weight.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float
    gradient_norm: float
    samples_per_second: float
    seconds_left: float
    validation: Validation | None
    appeared_at: int | None = None
    auxiliary: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        reason: all steps done; stopped at convergence; or interrupted by Ctrl-C or SIGTERM.
        step: steps done, over all sittings.
        samples: samples seen.
        curve: the validations.
        converged_at: the step of the validation that showed sudden convergence.
        base_hash: SHA-256 of the locked base, the same before and after.
        appeared_at: when control appeared: the step of the first validation after the jump, or, if control grows
            gradually, of the first one that is no longer flat. It takes a few more validations to know that it stays.
    """

    reason: Literal["finished", "converged", "interrupted"]
    step: int
    samples: int
    curve: list[Validation] = field(default_factory=list)
    converged_at: int | None = None
    base_hash: str = ""
    appeared_at: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As it is in `result.json`."""
        return asdict(self) | {"curve": [validation.to_json() for validation in self.curve]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The reverse of `to_json`."""
        return cls(**{**values, "curve": [Validation.from_json(one) for one in values["curve"]]})
