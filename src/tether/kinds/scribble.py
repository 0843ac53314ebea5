"""Scribbles by XDoG: thick white lines on black, where a picture is darker than what lies around.

    D(x)    = G_5 * x - G_0.5 * x                        a difference of two Gaussians, of each colour channel
    d       = min D + colour (max D - min D)             over the three channels
    line    = 2 d > threshold
    strokes = lines without specks, swept by a round pen of `thickness` pixels

The difference of Gaussians as a way to draw is from Winnemöller, Kyprianidis and Olsen, "XDoG: An eXtended
difference-of-Gaussians compendium including advanced image stylization", Computers & Graphics 36(6), 2012. Deviations
and threshold are those of `scribble_xdog` in ControlNet 1.1, which works at 512 pixels: here the deviations grow with
the picture's shorter side, and are the same at 512. It takes the minimum over the channels, `colour` 0, and so misses
where one saturated colour meets another, or white; `colour` 1 draws such edges too. The pen makes a scribble of the
lines: none is thinner than it.
"""

from __future__ import annotations

import cv2
import numpy as np

from tether.kinds.option import Option

__all__ = ["OPTIONS", "detect", "scribble_map"]

OPTIONS = {
    "threshold": Option(32, 1, 255, "how much darker than its surroundings a line is"),
    "thickness": Option(3, 1, 32, "width of the pen in pixels"),
    "colour": Option(1, 0, 1, "0 draws what is darker in red, green and blue, 1 what is darker in any of them"),
}
FINE, COARSE, SIDE = 0.5, 5.0, 512
"""Deviations of the two Gaussians in pixels of a picture whose shorter side has `SIDE` of them."""
SPECK = 3e-5
"""Lines of a smaller share of the picture's pixels are grain."""


def scribble_map(pixels: np.ndarray, threshold: float = 32, thickness: float = 3, colour: float = 1) -> np.ndarray:
    """Strokes of uint8 `(H, W, 3)` RGB, uint8 `(H, W)`, 0 or 255."""
    scale = min(pixels.shape[:2]) / SIDE
    # In float32 throughout: the released code doubles in uint8, where the strongest lines wrap around to nothing.
    values = pixels.astype(np.float32)
    difference = _blur(values, COARSE * scale) - _blur(values, FINE * scale)
    darker = (1 - colour) * difference.min(axis=2) + colour * difference.max(axis=2)
    lines = _without_specks(2 * darker > threshold, SPECK * darker.size)
    side = round(thickness)
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return cv2.dilate(lines, pen) * np.uint8(255)


def detect(pixels: np.ndarray, threshold: float, thickness: float, colour: float) -> np.ndarray:
    """Strokes as a condition, uint8 `(H, W, 3)`."""
    return scribble_map(pixels, threshold, thickness, colour)[..., None].repeat(3, axis=2)


def _blur(values: np.ndarray, deviation: float) -> np.ndarray:
    return cv2.GaussianBlur(values, (0, 0), deviation)


def _without_specks(lines: np.ndarray, least: float) -> np.ndarray:
    """Lines `(H, W)` as 0 and 1, those of fewer than `least` pixels left out."""
    _, labels, about, _ = cv2.connectedComponentsWithStats(lines.astype(np.uint8), connectivity=8)
    kept = about[:, cv2.CC_STAT_AREA] >= least
    kept[0] = False  # label 0 is where no line is
    return kept[np.asarray(labels, np.int32)].astype(np.uint8)
