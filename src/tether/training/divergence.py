"""When a run has diverged, and what its user is told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from accelerate.utils import gather_object
from torch import Tensor

from tether.errors import TetherError

__all__ = ["Diverged", "LossLimit", "diverged"]

_FIRST_LOSSES = 50  # steps whose losses say what a loss that has not exploded looks like


class Diverged(TetherError):
    """The loss or its gradient is not finite, or the loss has exploded.

    `names` are the samples of that step, worst first.
    """

    def __init__(self, message: str, names: list[str]) -> None:
        super().__init__(message)
        self.names = names


class LossLimit:
    """What a step's mean loss may be: `explosion` times the highest of the first ones.

    A fresh control says nothing, so the first losses are the base's own; training only has to keep them.
    """

    def __init__(self, explosion: float) -> None:
        self.explosion = explosion
        self.first_losses: list[float] = []

    def problem(self, loss: float) -> str | None:
        """What is wrong with a step's loss; None where nothing is, and then it counts among the first ones."""
        # One step's loss tells little of the next one's, at small batches least of all: timesteps differ by far.
        known = len(self.first_losses) == _FIRST_LOSSES
        limit = self.explosion * max(self.first_losses) if known else math.inf
        if not math.isfinite(loss):
            return "the loss is not finite"
        if loss > limit:
            return f"the loss has exploded ({loss:.3g}; at most {limit:.3g} is expected)"
        if not known:
            self.first_losses.append(loss)
        return None


def diverged(what: str, losses: Tensor, names: list[str], checkpoints: Sequence[Path]) -> Diverged:
    """The error for a step, the same on every process; all of them must ask for it.

    Args:
        what: what went wrong, and when.
        losses: of this process's samples, `(B,)`.
        names: of those samples.
        checkpoints: those that are there, the last one last.
    """
    told = gather_object(list(zip(names, losses.tolist(), strict=True)))
    badness = {name: value if math.isfinite(value) else math.inf for name, value in told}
    worst = sorted(badness, key=lambda name: -badness[name])
    bad = [name for name in worst if badness[name] == math.inf] or worst
    kept = checkpoints[-1] if checkpoints else None
    return Diverged(
        f"{what}; samples: {', '.join(bad[:8])}. The last good checkpoint is {kept or 'none'}: look at these samples, "
        "or begin a new run with a lower learning rate" + (f" from there (--set start_from={kept})" if kept else ""),
        bad,
    )
