"""Do the edges of a picture lie where the condition wanted them?

    precision = share of the picture's edge pixels with a wanted one within 2 px
    recall    = share of the wanted edge pixels with one of the picture's within 2 px
    F1        = 2 precision recall / (precision + recall)

The tolerance, a Euclidean distance, forgives what the latents' 8 px grid cannot place.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from tether.annotators.canny import edge_map
from tether.errors import TetherError

__all__ = ["canny_obedience", "edge_f1"]

TOLERANCE = 2


def edge_f1(found: np.ndarray, wanted: np.ndarray, tolerance: int = TOLERANCE) -> float:
    """F1 of two edge maps.

    Args:
        found: `(H, W)`, true or non-zero where the picture has an edge.
        wanted: `(H, W)`, where the condition has one.
        tolerance: distance in pixels up to which two edge pixels match.

    Returns:
        From 0 to 1; 1 where neither has an edge, 0 where only one of them has.

    Raises:
        TetherError: where the sizes differ.
    """
    found, wanted = np.asarray(found) != 0, np.asarray(wanted) != 0
    if found.shape != wanted.shape or found.ndim != 2:
        raise TetherError(f"edge maps have shapes {found.shape} and {wanted.shape}: they must be (H, W), and the same")
    if not found.any() or not wanted.any():
        return float(found.any() == wanted.any())
    precision = (found & _widened(wanted, tolerance)).sum() / found.sum()
    recall = (wanted & _widened(found, tolerance)).sum() / wanted.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def canny_obedience(picture: Image.Image, condition: Image.Image) -> float:
    """`edge_f1` of a picture's Canny edges at the default thresholds and a condition, white edges on black.

    A condition of another size is brought to the picture's.
    """
    if condition.size != picture.size:
        condition = condition.resize(picture.size, Image.Resampling.NEAREST)
    return edge_f1(edge_map(np.asarray(picture.convert("RGB"))), np.asarray(condition.convert("L")) >= 128)


def _widened(edges: np.ndarray, radius: int) -> np.ndarray:
    """True within `radius` of an edge."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = (x**2 + y**2 <= radius**2).astype(np.uint8)
    return cv2.dilate(edges.astype(np.uint8), disc, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
