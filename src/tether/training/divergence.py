"""Divergence: when a run stops because of its loss, and the error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from accelerate.utils import gather_object
from torch import Tensor

from tether.errors import TetherError

__all__ = ["Diverged", "LossLimit", "diverged"]

_FIRST_LOSSES = 50  # steps whose losses set the limit


class Diverged(TetherError):
    """The loss or its gradient is not finite, or the loss has exploded.

    `names` are the samples of that step, worst first.
    """

    def __init__(self, message: str, names: list[str]) -> None:
        super().__init__(message)
        self.names = names


class LossLimit:
    """The limit on a step's mean loss: `factor` times the largest of the first ones.

    A fresh control has no effect, so the first losses are the base's own; training only has to keep them.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.first_losses: list[float] = []

    def problem(self, loss: float) -> str | None:
        """What is wrong with a step's loss; None if nothing is, and it then counts among the first ones."""
        # One step's loss says little about the next one's, least of all in small batches: timesteps differ widely.
        known = len(self.first_losses) == _FIRST_LOSSES
        limit = self.factor * max(self.first_losses) if known else math.inf
        if not math.isfinite(loss):
            return "the loss is not finite"
        if loss > limit:
            return f"the loss has exploded ({loss:.3g}; expected at most {limit:.3g})"
        if not known:
            self.first_losses.append(loss)
        return None


_ADVICE = "inspect these samples, or start a new run with a lower learning rate"


def diverged(
    what: str, losses: Tensor, names: list[str], checkpoints: Sequence[Path], advice: str = _ADVICE
) -> Diverged:
    """The error for a step, the same on every process; all of them must call this.

    Args:
        what: what went wrong, and when.
        losses: of this process's samples, `(B,)`.
        names: of those samples.
        checkpoints: the existing ones, the latest last.
        advice: what to do.
    """
    gathered = gather_object(list(zip(names, losses.tolist(), strict=True)))
    badness = {name: value if math.isfinite(value) else math.inf for name, value in gathered}
    worst = sorted(badness, key=lambda name: -badness[name])
    bad = [name for name in worst if badness[name] == math.inf] or worst
    kept = checkpoints[-1] if checkpoints else None
    return Diverged(
        f"{what}; samples: {', '.join(bad[:8])}. The last good checkpoint is {kept or 'none'}: {advice}"
        + (f" from it (--set start_from={kept})" if kept else ""),
        bad,
    )
