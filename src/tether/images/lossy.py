"""Maps of black and white that were saved as JPEG: told from soft ones, and made black and white again.

JPEG leaves small ripples on both levels within the blocks of 8 x 8 pixels that have an edge, and nearly nothing in the
middle between the levels. Smooth edges are the other way round: of strokes drawn with antialiasing a third of the
levels and more lie in the middle, and soft edges (HED) have all levels alike. Measured on Canny maps, scribbles and
strokes of 1 to 30 pixels at the qualities 30 to 95, there are at least 15 pixels of ripple for one in the middle; on
antialiased strokes, after JPEG or before, at most 6 (`tests/images/test_lossy.py`).
"""

from __future__ import annotations

import numpy as np
from PIL import Image

__all__ = ["as_black_and_white"]

LOW, HIGH = 64, 192
"""The middle between black and white."""
LEAST_RIPPLES = 12
"""Pixels of ripple for one in the middle."""
RIPPLE = 12
"""A level this far from black and from white counts as drawn if it is far from an edge."""
MOST_DRAWN = 0.01
"""Of the pixels of the rarer level: pixels that would have to be drawn, as faint strokes are."""
MOST_COLOR = 4
"""Levels between the channels of a gray pixel after JPEG."""
BLOCK = 8


def as_black_and_white(image: Image.Image) -> Image.Image | None:
    """An RGB map as it was before JPEG, if it was black and white; None if it was not, or still is."""
    gray = image.convert("L")
    histogram = np.array(gray.histogram())
    ripples, middle = histogram[4:LOW].sum() + histogram[HIGH:252].sum(), histogram[LOW:HIGH].sum()
    if not ripples or ripples < LEAST_RIPPLES * middle or not histogram[HIGH:].any() or not histogram[:LOW].any():
        return None
    pixels = np.asarray(image)
    if (pixels.max(axis=2) - pixels.min(axis=2)).max() > MOST_COLOR:
        return None
    levels = np.asarray(gray)
    unsure = (levels >= RIPPLE) & (levels <= 255 - RIPPLE)
    drawn = unsure & ~(_near(levels >= HIGH) & _near(levels < LOW))
    if drawn.sum() > MOST_DRAWN * min(histogram[HIGH:].sum(), histogram[:LOW].sum()):
        return None
    return gray.point([0] * 128 + [255] * 128).convert("RGB")


def _near(wanted: np.ndarray) -> np.ndarray:
    """Where in `(H, W)` a block of 8 x 8 pixels, or one beside it, has a wanted pixel."""
    height, width = wanted.shape
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    padded = np.pad(wanted, ((0, rows * BLOCK - height), (0, columns * BLOCK - width)))
    blocks = np.pad(padded.reshape(rows, BLOCK, columns, BLOCK).any(axis=(1, 3)), 1)
    beside = [blocks[y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
    return np.logical_or.reduce(beside).repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)[:height, :width]
