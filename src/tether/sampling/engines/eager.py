"""PyTorch as it is: every module is called as the base and the controls hold it."""

from __future__ import annotations

from collections.abc import Sequence

from tether.base.denoiser import Denoiser
from tether.control.control import Control
from tether.sampling.engines.engine import Engine, register

__all__ = ["Eager"]


@register("eager")
class Eager(Engine):
    """Changes nothing."""

    def prepare(self, denoiser: Denoiser, controls: Sequence[Control]) -> tuple[Denoiser, Sequence[Control]]:
        return denoiser, controls
