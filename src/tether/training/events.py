"""What a trainer hears of and tells: looks at validation pictures, progress, and how a run ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from tether.control import ControlNet

__all__ = ["Look", "Outcome", "Progress", "Watcher"]


@dataclass(frozen=True)
class Look:
    """What the watcher saw: the obedience of the validation pictures, with their prompts and without.

    None where the kind of condition has no metric.
    """

    step: int
    obedience: float | None
    without_prompt: float | None


class Watcher(Protocol):
    """Samples validation pictures with a control and measures how well they obey."""

    def __call__(self, step: int, control: ControlNet) -> Look: ...


@dataclass(frozen=True)
class Progress:
    """What `on_progress` is told after every step, on the main process.

    `look` is the last one; `appeared_at` the step at which control appeared, from the look on that showed it.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float
    gradient_norm: float
    samples_per_second: float
    seconds_left: float
    look: Look | None
    appeared_at: int | None = None


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        reason: all steps done; stopped at convergence; or told to leave by Ctrl-C or SIGTERM.
        step: steps done, over all sittings.
        samples: samples seen.
        curve: the looks.
        converged_at: the step of the look at which sudden convergence showed.
        base_hash: SHA-256 of the locked base, the same before and after.
        appeared_at: when control appeared: the step of the first look after the jump, or, where it has not come at once
            but grows, of the first look after it was flat. It takes a few more looks to know that it stays.
    """

    reason: Literal["finished", "converged", "interrupted"]
    step: int
    samples: int
    curve: list[Look] = field(default_factory=list)
    converged_at: int | None = None
    base_hash: str = ""
    appeared_at: int | None = None
