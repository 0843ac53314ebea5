"""Canny edges (Canny 1986), OpenCV's: white lines one pixel wide on black.

A pixel is an edge when its gradient is a maximum across the edge and above `high`, or above `low` and joined to one
that is.
"""

from __future__ import annotations

import cv2
import numpy as np

from tether.errors import TetherError
from tether.kinds.option import Option

__all__ = ["OPTIONS", "detect", "edge_map", "random_canny"]

OPTIONS = {
    "low": Option(100, 0, 1000, "weakest gradient that goes on with an edge"),
    "high": Option(200, 0, 1000, "weakest gradient that starts an edge"),
}
LOW_RANGE, HIGH_RANGE = (40.0, 160.0), (30.0, 200.0)
"""Thresholds of `random_canny`: low, and how much higher high is."""


def edge_map(pixels: np.ndarray, low: float = 100, high: float = 200) -> np.ndarray:
    """Edges of uint8 `(H, W, 3)` RGB, uint8 `(H, W)`, 0 or 255."""
    return cv2.Canny(np.ascontiguousarray(pixels), low, high)


def detect(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Edges as a condition, uint8 `(H, W, 3)`.

    Raises:
        TetherError: when low is above high.
    """
    if low > high:
        raise TetherError(f"canny low is {low:g} and high is {high:g}: low must not be above high")
    return edge_map(pixels, low, high)[..., None].repeat(3, axis=2)


def random_canny(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Edges with random thresholds, uint8 `(H, W)`: what a control is trained on, so that any thresholds work."""
    low = rng.uniform(*LOW_RANGE)
    return edge_map(pixels, low, low + rng.uniform(*HIGH_RANGE))
