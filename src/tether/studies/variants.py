"""Variants of the control that the paper's ablation compares (arXiv:2302.05543, section 4.2 and figure 8).

| family                  | figure 8 | what differs                                                            |
|-------------------------|----------|-------------------------------------------------------------------------|
| `controlnet`            | (a)      | nothing                                                                 |
| `controlnet-gaussian`   | (b)      | the zero convolutions begin with Gaussian weights                       |
| `controlnet-lite`       | (c)      | each block's trainable copy is one convolution; zero convolutions as in (a) |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

from torch import Tensor, nn
from torch.nn.functional import silu

from tether.control.conditioning import Conditioning
from tether.control.control import Control, Steerable, register
from tether.control.controlnet import ControlNet
from tether.control.hint import HintEncoder
from tether.control.signal import Signal
from tether.control.zero import ZeroConv2d

__all__ = ["ControlNetLite", "GaussianControlNet"]


@register("controlnet-gaussian")
class GaussianControlNet(ControlNet):
    """A ControlNet whose zero convolutions begin as ordinary ones: weights N(0, 1 / fan-in), biases 0.

    Saved, it is an ordinary ControlNet.
    """

    @classmethod
    def from_unet(cls, unet: Any, *arguments: Any, **settings: Any) -> Self:
        control = super().from_unet(unet, *arguments, **settings)
        for module in control.modules():
            if isinstance(module, ZeroConv2d):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        return control


@register("controlnet-lite")
class ControlNetLite(Control):
    """ControlNet-lite: each block of the trainable copy is one convolution, from fresh weights.

        x_0 = conv_in(z_t) + Z(E(c_i)),    x_k = conv_k(silu(x_{k-1})),    r_k = Z(x_k)

    It sees neither the timestep nor the prompt.

    Args:
        latent_channels: channels of z_t.
        channels: of each injection point, those of the skip connections first, the middle last.
        scales: how many times smaller than the latents each of them is.
    """

    def __init__(self, latent_channels: int, channels: Sequence[int], scales: Sequence[int]) -> None:
        super().__init__()
        self.config: Mapping[str, Any] = {
            "latent_channels": latent_channels,
            "channels": list(channels),
            "scales": list(scales),
        }
        self.hint = HintEncoder(3, channels[0])
        self.conv_in = nn.Conv2d(latent_channels, channels[0], 3, padding=1)
        pairs = pairwise(channels)
        strides = [after // before for before, after in pairwise(scales)]
        self.blocks = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1, stride=stride)
            for (before, after), stride in zip(pairs, strides, strict=True)
        )
        self.zeros = nn.ModuleList(ZeroConv2d(width) for width in channels)

    @classmethod
    def from_base(cls, base: Steerable, **settings: Any) -> Self:
        """A fresh one for a U-Net, in training mode, in float32."""
        spec = base.denoiser.spec
        points = [point for point in spec.points if point.name == "middle" or point.name.startswith("skip.")]
        points.sort(key=lambda point: point.name == "middle")
        return cls(spec.latent_channels, [p.channels for p in points], [p.scale for p in points]).train()

    @property
    def points(self) -> Mapping[str, int]:
        *skips, middle = self.config["channels"]
        return {f"skip.{k}": width for k, width in enumerate(skips)} | {"middle": middle}

    def encode(self, condition: Tensor) -> Tensor:
        return self.hint(condition)

    def signal(
        self, latents: Tensor, timestep: int | float | Tensor, conditioning: Conditioning, hint: Tensor
    ) -> Signal:
        x = self.conv_in(latents.to(self.dtype)) + hint
        features = [x]
        for block in self.blocks:
            x = block(silu(x))
            features.append(x)
        signals = [zero(feature) for zero, feature in zip(self.zeros, features, strict=True)]
        return Signal(dict(zip(self.points, signals, strict=True)))
