"""A control family of another package, in one file: a small T2I-Adapter (arXiv:2302.08453).

It reads the condition alone, so it is run once an image, and adds one feature map after each encoder block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

from tether.control import Conditioning, Control, Signal, ZeroConv2d, register
from tether.errors import TetherError


@register("toy-adapter")
class ToyAdapter(Control):
    """Pixels -> features at the latents' size -> one zero convolution for each injection point.

    Args:
        blocks: name, channels and scale of each injection point.
        factor: pixels per latent pixel.
        width: channels of the features.
    """

    per_step = False

    def __init__(self, blocks: Sequence[tuple[str, int, int]], factor: int = 8, width: int = 16) -> None:
        super().__init__()
        self.config = {"blocks": [list(block) for block in blocks], "factor": factor, "width": width}
        self.blocks = [(name, scale) for name, _, scale in blocks]
        self.body = nn.Sequential(
            nn.PixelUnshuffle(factor),
            nn.Conv2d(self.condition_channels * factor**2, width, 1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.heads = nn.ModuleList(ZeroConv2d(width, channels) for _, channels, _ in blocks)

    @classmethod
    def from_base(cls, base: Any, width: int = 16) -> Self:
        spec = base.denoiser.spec
        blocks = [(point.name, point.channels, point.scale) for point in spec.points if point.name.startswith("block.")]
        if not blocks:
            raise TetherError(f"base {base.name} has no encoder blocks to adapt")
        return cls(blocks, spec.latent_factor, width).train()

    @property
    def points(self) -> dict[str, int]:
        return {name: channels for name, channels, _ in self.config["blocks"]}

    def encode(self, condition: Tensor) -> Tensor:
        """`(B, 3, H, W)` in [0, 1] -> `(B, width, h, w)`."""
        return self.body(condition.to(self.dtype))

    def signal(
        self, latents: Tensor, timestep: int | float | Tensor, conditioning: Conditioning, hint: Tensor
    ) -> Signal:
        height, width = latents.shape[-2:]
        tensors = {}
        for (name, scale), head in zip(self.blocks, self.heads, strict=True):
            small = interpolate(hint, (-(-height // scale), -(-width // scale)), mode="area")
            tensors[name] = head(silu(small)).expand(len(latents), -1, -1, -1)
        return Signal(tensors)
