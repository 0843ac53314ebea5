"""Measures of pictures that need no condition: sharpness, and diversity over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import cv2
import numpy as np

from tether.kinds.measures import Measure, Numbers

__all__ = ["DIVERSITY", "SHARPNESS", "diversity", "sharpness"]


def sharpness(pixels: np.ndarray) -> Numbers:
    """Deviation of the Laplacian of the luminance of a picture, uint8 `(H, W, 3)`, in levels of 255.

    It depends on what is shown, so it says something beside that of the sources alone: less is blurred, more is noise.
    """
    gray = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    return {"value": float(cv2.Laplacian(gray, cv2.CV_64F).std())}


def diversity(pictures: Sequence[np.ndarray]) -> Numbers:
    """Mean absolute difference in levels of 255 of the pictures of one case, over all pairs; uint8 `(H, W, 3)` each."""
    pairs = [np.abs(a.astype(np.int16) - b).mean() for a, b in combinations(pictures, 2)]
    return {"value": float(np.mean(pairs))}


def _compare(found: np.ndarray, wanted: np.ndarray) -> Numbers:
    return sharpness(found)


def _differ(found: np.ndarray, wanted: np.ndarray) -> Numbers:
    return diversity([found, wanted])


SHARPNESS = Measure("sharpness", "sharpness", _compare, higher=None, unit="of 255", digits=1)
DIVERSITY = Measure("diversity", "diversity over seeds", _differ, higher=None, unit="of 255", digits=1)
