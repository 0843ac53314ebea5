"""Conditions of kinds that mark the pixels to inpaint: stored as RGBA, transparent (and black) in the holes.

In training, as in sampling, a hole has the lowest value of the kind's range, -1 for ControlNet 1.1's `inpaint`.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from tether.images import fit

__all__ = ["fit_holes", "given_holes", "random_holes", "with_holes"]

LEAST_SHARE, LARGEST_SHARE = 0.05, 0.6
"""Share of an image that random holes cover."""
_BLACK, _NOISE = 2, 16
"""A channel up to this is black; a difference up to this may be compression."""
_LINES = 0.002
"""Least share of an image that lines cover."""
_FEW = 0.05
"""Share of pixels that may be other ones: those at the edges of a mask, after compression."""


def random_holes(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Random rectangles and brush strokes, bool `(height, width)`."""
    side = min(width, height)
    while True:
        holes = np.zeros((height, width), np.uint8)
        for _ in range(rng.integers(1, 5)):
            points = (rng.random((rng.integers(2, 6), 2)) * (width, height)).astype(np.int32)
            if rng.random() < 0.5:
                corner = points[0] + (rng.uniform(0.1, 0.5, 2) * side).astype(np.int32)
                cv2.rectangle(holes, points[0].tolist(), corner.tolist(), 1, -1)
            else:
                cv2.polylines(holes, [points], False, 1, max(1, int(rng.uniform(0.04, 0.2) * side)))
        if LEAST_SHARE <= holes.mean() <= LARGEST_SHARE:
            return holes.astype(bool)


def given_holes(white: Image.Image, black: Image.Image, image: Image.Image) -> np.ndarray:
    """The holes of a condition that a source brings, bool `(H, W)`.

    They are where it is transparent; else where it is black and the image is not, if the rest of it is the image; else
    the light part, if it is gray: a mask. A mask whose light part happens to be as the image there is still one, if it
    is black and white, and shows no lines of the image.

    Args:
        white, black: the condition on white and on black, RGB.
        image: the image, RGB, of the same size.
    """
    on_white, on_black, pixels = (np.asarray(one).astype(np.int16) for one in (white, black, image))
    transparent = (on_white - on_black).max(axis=2) > 127
    if transparent.any():
        return transparent
    levels = on_black.max(axis=2)
    dark = levels <= _BLACK
    is_gray = (levels - on_black.min(axis=2) <= _NOISE).mean() >= 1 - _FEW
    is_mask = is_gray and (dark | (levels >= 255 - _NOISE)).mean() >= 1 - _FEW
    differs = np.abs(pixels - on_black).max(axis=2) > _NOISE
    if not dark.all() and differs[~dark].mean() < 0.5:
        _, parts = cv2.connectedComponents(dark.astype(np.uint8))
        hole = dark & np.isin(parts, np.unique(parts[dark & differs]))
        # A drawing with a black hole looks like a mask; but its lines beside the hole are those of the image.
        is_drawing = (dark & ~hole).mean() >= _LINES and differs[~dark].mean() < _FEW
        if not is_mask or (is_drawing and hole.any()):
            return hole
    return levels >= 128 if is_gray else np.zeros_like(dark)


def with_holes(image: Image.Image, holes: np.ndarray) -> Image.Image:
    """An RGB image as RGBA, transparent and black where bool `(H, W)` is true."""
    pixels = np.asarray(image.convert("RGBA")).copy()
    pixels[..., 3] = 255
    pixels[holes] = 0
    return Image.fromarray(pixels, "RGBA")


def fit_holes(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """An image of `with_holes`, stretched to a size: the black of the holes does not bleed into the rest."""
    alpha = np.asarray(fit(image.getchannel("A"), *size, "stretch")).astype(np.float64)
    parts = [fit(image.getchannel(name), *size, "stretch") for name in "RGB"]
    colors = (
        np.stack([np.asarray(part).astype(float) for part in parts], axis=2) * 255 / np.maximum(alpha, 1)[..., None]
    )
    return with_holes(Image.fromarray(np.clip(colors + 0.5, 0, 255).astype(np.uint8)), alpha < 128)
