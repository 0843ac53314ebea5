"""Do the edges, or the strokes, of a picture lie where the condition wanted them?

    precision = share of the picture's edge pixels with a wanted one within 2 px
    recall    = share of the wanted edge pixels with one of the picture's within 2 px
    F1        = 2 precision recall / (precision + recall)

The tolerance, a Euclidean distance, forgives what the latents' 8 px grid cannot place.

A picture's edges are found by the annotator that makes conditions. Strokes have a width, which says nothing about the
picture, and the wider they were the easier they would be met: what is compared are their middle lines,

    S = U_k (A - k B) less (A - k B) o B            erosion by k discs B, less its opening (Lantuéjoul's skeleton)
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from tether.errors import TetherError
from tether.images import fit_condition
from tether.kinds.canny import edge_map
from tether.kinds.scribble import scribble_map

__all__ = ["canny_obedience", "edge_f1", "middle_lines", "scribble_obedience"]

TOLERANCE = 2
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


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
    return edge_f1(edge_map(np.asarray(picture.convert("RGB"))), _wanted(picture, condition))


def scribble_obedience(picture: Image.Image, condition: Image.Image) -> float:
    """`edge_f1` of the middle lines of a picture's scribble by default options and of a condition's white strokes.

    A condition of another size is brought to the picture's.
    """
    found = scribble_map(np.asarray(picture.convert("RGB")))
    return edge_f1(middle_lines(found), middle_lines(_wanted(picture, condition)))


def middle_lines(strokes: np.ndarray) -> np.ndarray:
    """The skeleton of strokes `(H, W)`, true on their middle lines, which may have gaps of a pixel."""
    left = (np.asarray(strokes) != 0).astype(np.uint8)
    middle = np.zeros(left.shape, bool)
    # A stroke that the frame cuts off goes on outside of it.
    while left.any() and not left.all():
        smaller = cv2.erode(left, _CROSS, borderType=cv2.BORDER_REPLICATE)
        middle |= (left > 0) & (cv2.dilate(smaller, _CROSS, borderType=cv2.BORDER_REPLICATE) == 0)
        left = smaller
    return middle | (left > 0)


def _wanted(picture: Image.Image, condition: Image.Image) -> np.ndarray:
    """Where a condition is white, at the picture's size."""
    return np.asarray(fit_condition(condition, *picture.size, "stretch").convert("L")) >= 128


def _widened(edges: np.ndarray, radius: int) -> np.ndarray:
    """True within `radius` of an edge."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = (x**2 + y**2 <= radius**2).astype(np.uint8)
    return cv2.dilate(edges.astype(np.uint8), disc, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
