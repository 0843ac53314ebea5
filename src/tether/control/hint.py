"""From a condition image to a feature map of the latents' size (arXiv:2302.05543, section 3.2, equation 4).

    c_f = E(c_i)        c_i: (B, C, H, W) in [0, 1]    ->    c_f: (B, out, H/8, W/8)

E is a small convolutional network trained together with the control. It has two variants:

"released"  as in the authors' models: 3x3 convolutions, SiLU, and a last convolution that starts at zero. With channels
            (16, 32, 96, 256) these are 16-16-32-32-96-96-256, three of them with stride 2. Parameter names are those of
            diffusers' ``ControlNetConditioningEmbedding``, so that state dicts interchange.
"paper"     as in the text: four 4x4 convolutions, ReLU, channels 16-32-64-128, Gaussian weights. The text gives all
            four a stride of 2, which would make 32 of 512 pixels where 64 are needed; here the first three have stride
            2 and the last has stride 1. The text gives no standard deviation for the Gaussian; here it is
            √(2 / fan-in), which preserves the variance through ReLU (arXiv:1502.01852). A zero convolution maps the 128
            channels to those of the denoiser's features: Z(·; θz1) of equation 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from tether.control.zero import ZeroConv2d
from tether.errors import TetherError

__all__ = ["HintEncoder", "HintVariant", "check_condition"]

HintVariant = Literal["released", "paper"]

_CHANNELS: dict[HintVariant, tuple[int, ...]] = {"released": (16, 32, 96, 256), "paper": (16, 32, 64, 128)}
# A condition that was resized or stored in half precision may be outside [0, 1] by rounding; one in [0, 255] or
# [-1, 1] is outside by far.
_TOLERANCE = 1e-2


class HintEncoder(nn.Module):
    """E(·) of equation 4 with the zero layer that follows it.

    Args:
        condition_channels: channels of the condition image, 3 for RGB.
        out_channels: channels of the features, those of the denoiser's first convolution (320 for SD).
        variant: "released" or "paper", see the module.
        block_out_channels: channels of the stages; by default (16, 32, 96, 256), or (16, 32, 64, 128) for "paper". All
            but one of the n stages halve the size: `factor` = 2^(n-1), 8 for four stages.

    Raises:
        TetherError: for an unknown variant or fewer than two channel counts.
    """

    def __init__(
        self,
        condition_channels: int = 3,
        out_channels: int = 320,
        variant: HintVariant = "released",
        block_out_channels: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if variant not in _CHANNELS:
            raise TetherError(f"hint encoder is {variant!r}; it must be one of {', '.join(_CHANNELS)}")
        channels = tuple(_CHANNELS[variant] if block_out_channels is None else block_out_channels)
        if len(channels) < 2:
            raise TetherError(f"a hint encoder needs two channel counts or more, got {channels}")
        self.variant: HintVariant = variant
        self.condition_channels = condition_channels
        self.block_out_channels = channels
        self.factor = 2 ** (len(channels) - 1)
        self.check_values = True  # False if the data guarantees them: looking at values waits for the device

        pairs = list(pairwise(channels))
        if variant == "released":
            self.activation = nn.SiLU()
            self.conv_in = nn.Conv2d(condition_channels, channels[0], 3, padding=1)
            self.blocks = nn.ModuleList()
            for before, after in pairs:
                self.blocks.append(nn.Conv2d(before, before, 3, padding=1))
                self.blocks.append(nn.Conv2d(before, after, 3, padding=1, stride=2))
            self.conv_out = ZeroConv2d(channels[-1], out_channels, kernel_size=3)
        else:
            self.activation = nn.ReLU()
            self.conv_in = nn.Conv2d(condition_channels, channels[0], 4, padding=1, stride=2)
            self.blocks = nn.ModuleList(nn.Conv2d(b, a, 4, padding=1, stride=2) for b, a in pairs[:-1])
            self.blocks.append(_SameSizeConv4x4(*pairs[-1], 4))
            for name, parameter in self.named_parameters():
                if name.endswith("weight"):
                    nn.init.kaiming_normal_(parameter, nonlinearity="relu")
                else:
                    nn.init.zeros_(parameter)
            self.conv_out = ZeroConv2d(channels[-1], out_channels)

    def forward(self, condition: Tensor, condition_range: tuple[float, float] = (0.0, 1.0)) -> Tensor:
        """Encodes a condition, once an image.

        Args:
            condition: `(B, C, H, W)`, H and W multiples of `factor` (8), values in `condition_range`.
            condition_range: the values allowed; (-1, 1) for inpainting, where -1 marks pixels to fill.

        Returns:
            Features `(B, out_channels, H/8, W/8)` in the module's dtype.

        Raises:
            TetherError: when the shape, the size or the values are not as above.
        """
        check_condition(condition, self.condition_channels, self.factor, condition_range, values=self.check_values)
        features = self.activation(self.conv_in(condition.to(self.conv_in.weight.dtype)))
        for conv in self.blocks:
            features = self.activation(conv(features))
        return self.conv_out(features)


def check_condition(
    condition: Tensor, channels: int, factor: int, condition_range: tuple[float, float], *, values: bool = True
) -> None:
    """Checks a condition `(B, C, H, W)`.

    Args:
        condition: any tensor.
        channels: C.
        factor: what H and W must be multiples of.
        condition_range: the values allowed.
        values: whether to look at them, which waits for the device.

    Raises:
        TetherError: when shape, size, type or values are others.
    """
    if condition.ndim != 4 or condition.shape[1] != channels:
        raise TetherError(f"condition has shape {tuple(condition.shape)}; expected (batch, {channels}, height, width)")
    height, width = condition.shape[-2:]
    if height % factor or width % factor or 0 in condition.shape:
        raise TetherError(f"condition is {width}x{height} pixels; both must be multiples of {factor}: resize or pad it")
    if not condition.is_floating_point():
        raise TetherError(f"condition has type {condition.dtype}; expected float in [0, 1]: divide bytes by 255")
    if condition.is_meta or torch.compiler.is_compiling() or not values:
        return  # no values to look at
    low, high = condition_range
    lowest, highest = (float(value) for value in condition.detach().aminmax())
    if not (low - _TOLERANCE <= lowest and highest <= high + _TOLERANCE):  # written so that NaN fails
        raise TetherError(f"condition has values in [{lowest:.3g}, {highest:.3g}]; expected [{low:g}, {high:g}]")


class _SameSizeConv4x4(nn.Conv2d):
    """A 4x4 convolution with stride 1 that keeps the size: an even kernel needs one more zero on one side."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(pad(input, (1, 2, 1, 2)))
