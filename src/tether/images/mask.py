"""Images -> masks: gray, white where something happens and black where nothing does."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tether.images.read import is_transparent, to_rgb, to_rgba

__all__ = ["to_mask"]

ONE_COLOR = 16
"""Levels of 255, times alpha, by which colors may differ and still count as one.

Strokes that a program has made smaller differ by up to 13 at their edges, by rounding and by overshoot."""


def to_mask(image: Image.Image) -> Image.Image:
    """Any PIL image as a mask of the same size, 8-bit gray.

        mask = luminance * alpha        and        mask = alpha, if all that is visible has one color

    The first is for masks that are painted, on any ground. The second is for masks that are an alpha channel alone,
    such as a selection that was saved, or strokes of one color; what color they have does not matter.
    An image without transparency is its luminance.
    """
    if not is_transparent(image):
        return image if image.mode == "L" else to_rgb(image).convert("L")
    rgba = to_rgba(image)
    alpha = np.asarray(rgba.getchannel("A"))
    if alpha.min() == 255:
        return rgba.convert("L")
    if _has_one_color(np.asarray(rgba)):
        return rgba.getchannel("A")
    luminance = np.asarray(rgba.convert("RGB").convert("L")).astype(np.float64)
    return Image.fromarray((luminance * alpha / 255 + 0.5).astype(np.uint8))


def _has_one_color(rgba: np.ndarray) -> bool:
    """Whether what is visible of `(H, W, 4)` has one color; the less visible, the less it counts."""
    colors, alpha = rgba[..., :3].reshape(-1, 3).astype(np.int32), rgba[..., 3].reshape(-1, 1).astype(np.int32)
    difference = np.abs(colors - colors[alpha.argmax()]) * alpha
    return bool(difference.max(initial=0) <= ONE_COLOR * 255)
