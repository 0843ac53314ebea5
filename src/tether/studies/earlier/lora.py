"""Condition channels beside the latents, and low-rank changes of every layer of the U-Net (LoRA, arXiv:2106.09685).

    ε = F([z_t; f(c_i)], t, c_t; θ + B A),      B and the weights of the new input channels begin as 0

Known as "Control LoRA" among users. θ stays locked, and without the condition nothing is changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tether.control.control import Steerable, register
from tether.control.zero import ZeroConv2d, ZeroLinear
from tether.studies.earlier.inside import InsideControl, Situation, first_channels

__all__ = ["ControlLora"]


@register("control-lora")
class ControlLora(InsideControl):
    """Low-rank changes of the linear layers and convolutions of a U-Net's blocks.

    Args:
        channels: of the hint.
        layers: name of a layer in the U-Net -> [inputs, outputs] of a linear layer; [inputs, outputs, kernel, stride,
            padding] of a convolution.
        rank: of each change.
    """

    def __init__(self, channels: int, layers: Mapping[str, Sequence[int]], rank: int = 16) -> None:
        super().__init__(channels)
        self.config = {"channels": channels, "layers": {n: list(shape) for n, shape in layers.items()}, "rank": rank}
        self.changes = nn.ModuleDict({_key(name): _change(shape, rank) for name, shape in layers.items()})

    @classmethod
    def from_base(cls, base: Steerable, **settings: Any) -> Self:
        locked = base.denoiser.network
        blocks = ("down_blocks.", "mid_block.", "up_blocks.")
        layers = {n: _shape(m) for n, m in locked.named_modules() if n.startswith(blocks) and _shape(m)}
        return cls(first_channels(locked), layers, **settings).to(locked.device).train()

    def hook(self, network: Any, now: Situation) -> Sequence[RemovableHandle]:
        if now.hint is None:
            return []
        handles = [*super().hook(network, now)]
        for name in self.config["layers"]:
            change = self.changes[_key(name)]
            handles.append(network.get_submodule(name).register_forward_hook(_adds(change)))
        return handles


def _adds(change: nn.Module) -> Any:
    """A forward hook that adds what a change makes of the layer's input."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + change(inputs[0]).to(output.dtype)

    return hook


def _change(shape: Sequence[int], rank: int) -> nn.Module:
    """B A, with B zero."""
    inputs, outputs, *convolution = shape
    if not convolution:
        return nn.Sequential(nn.Linear(inputs, rank, bias=False), ZeroLinear(rank, outputs))
    kernel, stride, padding = convolution
    down = nn.Conv2d(inputs, rank, kernel, stride=stride, padding=padding, bias=False)
    return nn.Sequential(down, ZeroConv2d(rank, outputs))


def _shape(module: nn.Module) -> list[int]:
    """The numbers of a layer that a change is made from; none for other modules."""
    if isinstance(module, nn.Linear):
        return [module.in_features, module.out_features]
    if isinstance(module, nn.Conv2d):
        size: Any = [module.kernel_size[0], module.stride[0], module.padding[0]]
        return [module.in_channels, module.out_channels, *size]
    return []


def _key(name: str) -> str:
    return name.replace(".", "-")
