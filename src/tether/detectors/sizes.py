"""The size that networks without one of their own work at."""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["MOST", "reduced"]

MOST = 1536 * 1024
"""Pixels; a network of full resolution takes more than a kilobyte for each."""


def reduced(pixels: np.ndarray, most: int = MOST) -> np.ndarray:
    """uint8 `(H, W, 3)` by area to at most `most` pixels in the same shape; as it is, and contiguous, where it has no
    more."""
    height, width = pixels.shape[:2]
    image = np.ascontiguousarray(pixels)
    if height * width <= most:
        return image
    scale = (most / (height * width)) ** 0.5
    return cv2.resize(image, (max(1, int(width * scale)), max(1, int(height * scale))), interpolation=cv2.INTER_AREA)
