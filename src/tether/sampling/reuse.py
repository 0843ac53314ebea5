"""When what was computed at an earlier step serves a step: the deep part of the base, and the signal of a control.

    whole step      each `every`-th, and where a control came, went, or changed its strength by more than a tenth
    shallow step    the others: the first layers of base and controls, with the deep features of the last whole step

What a control added to the deep features thus never outlives it, and what it adds to the first skip connections is
always that of the step itself. (Published caches, such as DeepCache of arXiv:2312.00858, do not look at controls.)

A control by need (`Injection.tolerance`) is run again when its signal is expected to have changed by more than the
tolerance: its changes are measured where it is run,

    rate = |r_i - r_j| / (|r_i| (i - j))        between two runs, at steps i > j; all tensors as one vector
    run at step k if rate (k - i) > tolerance
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tether.base.deep import Split
from tether.control.conditioning import Conditioning
from tether.control.injection import is_inside
from tether.control.signal import Signal
from tether.errors import TetherError

__all__ = ["Deep", "DeepFeatures", "relative_change"]

STRENGTH_CHANGE = 0.1
"""A control whose strength has changed by more than this share of the larger of the two needs a whole step."""


@dataclass(frozen=True)
class Deep:
    """How the deep part of the base is reused.

    Attributes:
        every: it is computed at each `every`-th step; 1 for all.
        skips: the number of skip connections of the part that is computed at every step.
        window: (start, end) of the trajectory in which it is reused.
    """

    every: int = 1
    skips: int = 1
    window: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise TetherError(f"deep_every is {self.every}; it must be a whole number, 1 or more")


class DeepFeatures:
    """The deep features of a run, and when they serve.

    Args:
        split: the base's denoiser, in two parts.
        deep: how they are reused.
        total_steps: of the run.
    """

    def __init__(self, split: Split, deep: Deep, total_steps: int) -> None:
        self.split, self.deep, self.total_steps = split, deep, total_steps
        self.features: Tensor | None = None
        self.made_at, self.made_with = 0, {}

    def serve(self, index: int, strengths: dict[int, float]) -> int | None:
        """How many skip connections a step computes if they serve it; None for a whole step, which makes them anew.

        Args:
            index: of the step.
            strengths: of the controls that are active, by number.
        """
        fresh = self.features is not None and 0 < index - self.made_at < self.deep.every
        if fresh and is_inside(self.deep.window, index, self.total_steps) and _alike(strengths, self.made_with):
            return self.deep.skips
        self.made_at, self.made_with = index, strengths
        return None

    def predict(
        self, whole: bool, latents: Tensor, timestep: Tensor, conditioning: Conditioning, signal: Signal | None
    ) -> Tensor:
        """The prediction of a step; arguments as of `Denoiser.predict`."""
        if whole or self.features is None:
            prediction, self.features = self.split.predict_whole(latents, timestep, conditioning, signal)
            if any(name.startswith("block.") for name in signal or ()):
                self.features = None  # these act inside of the encoder: every step is a whole one
            return prediction
        return self.split.predict_shallow(latents, timestep, conditioning, signal, self.features)


def _alike(strengths: dict[int, float], others: dict[int, float]) -> bool:
    """Whether the same controls are active, with about the same strengths."""
    if strengths.keys() != others.keys():
        return False
    return all(abs(one - others[k]) <= STRENGTH_CHANGE * max(one, others[k]) for k, one in strengths.items())


def relative_change(new: Signal, old: Signal) -> float:
    """|new - old| / |new|, all tensors as one vector; in float32."""
    change = sum(float((new[point].float() - old[point].float()).square().sum()) for point in new)
    size = sum(float(tensor.float().square().sum()) for tensor in new.values())
    return (change / size) ** 0.5 if size else 0.0
