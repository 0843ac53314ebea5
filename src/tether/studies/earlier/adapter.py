"""T2I-Adapter (arXiv:2302.08453): features of the condition alone, added to the outputs of the encoder's blocks.

    f_0 = body_0(conv(unshuffle(c_i))),  f_k = body_k(f_{k-1}),      block_k <- block_k + f_k

It does not see z_t, t or the prompt, so it is run once an image. Its blocks are diffusers' `AdapterBlock`. As in the
authors' code nothing begins as zero: before training it adds noise of its own. Here, timesteps are drawn uniformly, as
for all ways; the paper draws early ones more often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

from diffusers.models.adapter import AdapterBlock
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle

from tether.control.conditioning import Conditioning
from tether.control.control import Control, Steerable, register
from tether.control.signal import Signal

__all__ = ["Adapter"]


@register("t2i-adapter")
class Adapter(Control):
    """The adapter.

    Args:
        channels: of the output of each encoder block.
        scales: how many times smaller than the latents each of them is.
        factor: image pixels per latent pixel along one side.
        layers: residual blocks for each.
    """

    per_step = False

    def __init__(self, channels: Sequence[int], scales: Sequence[int], factor: int = 8, layers: int = 2) -> None:
        super().__init__()
        self.config: Mapping[str, Any] = {
            "channels": list(channels),
            "scales": list(scales),
            "factor": factor,
            "layers": layers,
        }
        self.conv_in = nn.Conv2d(3 * factor**2, channels[0], 3, padding=1)
        widths, sizes = pairwise([channels[0], *channels]), pairwise([1, *scales])
        self.blocks = nn.ModuleList(
            AdapterBlock(before, after, layers, down=smaller > larger)
            for (before, after), (larger, smaller) in zip(widths, sizes, strict=True)
        )

    @classmethod
    def from_base(cls, base: Steerable, **settings: Any) -> Self:
        spec = base.denoiser.spec
        points = [point for point in spec.points if point.name.startswith("block.")]
        return cls([p.channels for p in points], [p.scale for p in points], spec.latent_factor).train()

    @property
    def points(self) -> Mapping[str, int]:
        return {f"block.{k}": width for k, width in enumerate(self.config["channels"])}

    def encode(self, condition: Tensor) -> Tensor:
        """Condition `(B, 3, H, W)` in [0, 1] -> `(B, channels[0], H/factor, W/factor)`."""
        return self.conv_in(pixel_unshuffle(condition.to(self.dtype), self.config["factor"]))

    def signal(
        self, latents: Tensor, timestep: int | float | Tensor, conditioning: Conditioning, hint: Tensor
    ) -> Signal:
        found, x = {}, hint.expand(len(latents), -1, -1, -1)
        for point, block in zip(self.points, self.blocks, strict=True):
            x = block(x)
            found[point] = x
        return Signal(found)
