"""Images <-> tensors: the only place where 8-bit levels become floats."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tether.images.read import to_rgb

__all__ = ["from_pixels", "to_condition", "to_pixels"]


def to_pixels(image: Image.Image) -> Tensor:
    """A photograph, PIL -> float32 `(1, 3, H, W)` in [-1, 1]; it lies on white."""
    return to_condition(to_rgb(image)) * 2 - 1


def to_condition(image: Image.Image) -> Tensor:
    """A condition map, PIL -> float32 `(1, 3, H, W)` in [0, 1]; it lies on black. Gray of 16 bits keeps them."""
    if image.mode == "I;16":
        deep = torch.from_numpy(np.asarray(image).astype(np.float32) / 65535)
        return deep.expand(1, 3, -1, -1).clone()
    array = np.array(to_rgb(image, "black"))
    return torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255


def from_pixels(pixels: Tensor) -> list[Image.Image]:
    """`(B, 3, H, W)` in [-1, 1] -> B RGB images; values outside are clipped. The exact inverse of `to_pixels`."""
    levels = ((pixels.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [Image.fromarray(one) for one in levels.permute(0, 2, 3, 1).cpu().numpy()]
