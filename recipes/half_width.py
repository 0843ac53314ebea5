"""A control family for recipes/compare_controls.py: the trainable copy at half the width, a quarter of the parameters.

    s_1..n = encoder_half(conv_in_half(z_t) + c_f, t, c_t),    r_i = Z(s_i): half the channels -> those of the base

Its weights start as the first half of the base's channels, in and out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from tether.control import Control, ControlNet, ZeroConv2d, register
from tether.control.architecture import assemble, build, complete, config_of_unet
from tether.control.control import Steerable


@register("half-width")
class HalfWidth(ControlNet):
    """A ControlNet of half the base's channels, with zero convolutions to all of them."""

    @classmethod
    def from_base(cls, base: Steerable, **settings: Any) -> Self:
        unet = base.denoiser.network
        config = config_of_unet(unet, conditioning_embedding_out_channels=[16, 32, 96, 256])
        config["block_out_channels"] = [channels // 2 for channels in config["block_out_channels"]]
        config["norm_num_groups"] = config["norm_num_groups"] // 2
        control = cls.from_config(config)
        own, whole = control.state_dict(), unet.state_dict()
        first = {name: _corner(whole[name], tensor) for name, tensor in own.items() if name in whole}
        control.load_state_dict({**own, **first})
        return control.to(unet.device).requires_grad_(True).train()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        model = build(config)
        settings = complete(model, config)
        parts = assemble(model, settings)
        zeros: Any = parts["controlnet_down_blocks"]
        widened = [ZeroConv2d(zero.in_channels, 2 * zero.out_channels) for zero in zeros]
        parts["controlnet_down_blocks"] = nn.ModuleList(widened)
        parts["controlnet_mid_block"] = ZeroConv2d(zeros[-1].in_channels, 2 * zeros[-1].out_channels)
        return cls(parts, settings)

    def saved_config(self) -> dict[str, Any]:
        return Control.saved_config(self)

    @classmethod
    def read(cls, path: Path, **options: Any) -> Self:
        options.pop("base", None)
        return super(ControlNet, cls).read(path, **options)


def _corner(whole: Tensor, like: Tensor) -> Tensor:
    """The first entries of a tensor along each axis, as many as `like` has."""
    with torch.no_grad():
        return whole[tuple(slice(0, size) for size in like.shape)].clone()
