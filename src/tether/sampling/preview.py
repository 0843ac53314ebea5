"""A cheap preview of an image while it is generated: one matrix instead of the autoencoder's decoder.

Latents are nearly linear in the image: RGB ≈ M z + b, one pixel a latent pixel. M and b are fitted by least squares on
images of flat and blended colors that the base's own autoencoder encodes, so that every base has its own.
"""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from tether.base import Base
from tether.images import from_pixels

__all__ = ["LatentPreview"]

SIDE, COLORS, SEED = 64, 24, 0


class LatentPreview:
    """RGB ≈ M z + b for the latents of one base.

    Args:
        base: its autoencoder encodes a few small images, once.
    """

    def __init__(self, base: Base) -> None:
        generator = torch.Generator().manual_seed(SEED)
        corners = torch.rand(COLORS, 3, 2, 2, generator=generator) * 2 - 1
        pixels = interpolate(corners, size=SIDE, mode="bilinear", align_corners=True)
        with torch.no_grad():
            latents = torch.cat([base.encode_images(one[None]).float().cpu() for one in pixels])
        seen = _rows(avg_pool2d(pixels, base.latent_factor))
        known = _rows(latents)
        known = torch.cat([known, torch.ones(len(known), 1)], dim=1)
        self.matrix = torch.linalg.lstsq(known, seen).solution  # `(C + 1, 3)`

    def __call__(self, latents: Tensor) -> list[Image.Image]:
        """Latents `(B, C, h, w)` -> B images of w x h pixels."""
        latents = latents.float().cpu()
        batch, _, height, width = latents.shape
        rgb = _rows(latents) @ self.matrix[:-1] + self.matrix[-1]
        return from_pixels(rgb.reshape(batch, height, width, 3).permute(0, 3, 1, 2).clamp(-1, 1))


def _rows(maps: Tensor) -> Tensor:
    """`(B, C, h, w)` -> `(B h w, C)`."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)
