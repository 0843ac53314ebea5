"""PyTorch as it is: every module is called as the base and the controls hold it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tether.base.denoiser import Denoiser
from tether.control.control import Control
from tether.sampling.engines.engine import Engine, register

__all__ = ["Eager", "lay_out"]


@register("eager")
class Eager(Engine):
    """Changes no value; on a CUDA device, the layout of convolutions."""

    runs_modules = splits = True

    def prepare(self, denoiser: Denoiser, controls: Sequence[Control]) -> tuple[Denoiser, Sequence[Control]]:
        for network in (denoiser.network, *controls):
            lay_out(network)
        return denoiser, controls


def lay_out(network: nn.Module) -> None:
    """Puts a network that is on a CUDA device into channels-last layout, in place: tensor cores want it.

    On a CPU it gains nothing (docs/performance.md), and would round float32 otherwise.
    """
    if next((tensor.device.type for tensor in network.parameters()), "cpu") == "cuda":
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
