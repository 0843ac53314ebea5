"""How well two edge maps, or two maps of strokes, agree: the measure behind the metrics of line kinds.

    precision = share of the found edge pixels with a wanted one within 2 px
    recall    = share of the wanted edge pixels with a found one within 2 px
    F1        = 2 precision recall / (precision + recall)

The tolerance, a Euclidean distance, allows for the 8 px grid of the latents.

Strokes have a width, which says nothing about the image, and wider strokes are easier to meet: what is compared are
their middle lines,

    S = U_k (A - k B) less (A - k B) o B            erosion by k discs B, less its opening (Lantuéjoul's skeleton)
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from tether.errors import TetherError
from tether.images import fit_condition

__all__ = ["edge_f1", "middle_lines", "white_pixels"]

TOLERANCE = 2
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def edge_f1(found: np.ndarray, wanted: np.ndarray, tolerance: int = TOLERANCE) -> float:
    """F1 of two edge maps.

    Args:
        found: `(H, W)`, true or non-zero on the image's edges.
        wanted: `(H, W)`, the same for the condition's edges.
        tolerance: distance in pixels up to which two edge pixels match.

    Returns:
        From 0 to 1; 1 when neither has an edge, 0 when only one of them has.

    Raises:
        TetherError: when the sizes differ.
    """
    found, wanted = np.asarray(found) != 0, np.asarray(wanted) != 0
    if found.shape != wanted.shape or found.ndim != 2:
        raise TetherError(f"edge maps have shapes {found.shape} and {wanted.shape}: they must be (H, W), and the same")
    if not found.any() or not wanted.any():
        return float(found.any() == wanted.any())
    precision = (found & _widened(wanted, tolerance)).sum() / found.sum()
    recall = (wanted & _widened(found, tolerance)).sum() / wanted.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def middle_lines(strokes: np.ndarray) -> np.ndarray:
    """The skeleton of strokes `(H, W)`, true on their middle lines, which may have gaps of a pixel."""
    left = (np.asarray(strokes) != 0).astype(np.uint8)
    middle = np.zeros(left.shape, bool)
    # A stroke that the border cuts off continues outside of it.
    while left.any() and not left.all():
        smaller = cv2.erode(left, _CROSS, borderType=cv2.BORDER_REPLICATE)
        middle |= (left > 0) & (cv2.dilate(smaller, _CROSS, borderType=cv2.BORDER_REPLICATE) == 0)
        left = smaller
    return middle | (left > 0)


def white_pixels(condition: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Where a condition is white at a size (width, height), bool `(H, W)`."""
    return np.asarray(fit_condition(condition, *size, "stretch").convert("L")) >= 128


def _widened(edges: np.ndarray, radius: int) -> np.ndarray:
    """True within `radius` of an edge."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = (x**2 + y**2 <= radius**2).astype(np.uint8)
    return cv2.dilate(edges.astype(np.uint8), disc, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
