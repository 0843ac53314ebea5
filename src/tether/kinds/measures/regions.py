"""Mean intersection over union of classes, one color each.

Pixels are counted over all pictures, as is usual: the IoU of class c is pixels of c in both maps / pixels of c in
either, and the score is the mean over the classes that some map has.
"""

from __future__ import annotations

import numpy as np

from tether.kinds.measures.measure import Numbers, Table

__all__ = ["mean_iou", "overlaps"]


def overlaps(found: np.ndarray, wanted: np.ndarray) -> Numbers:
    """Pixels of each color in both maps, and in either, uint8 `(H, W, 3)`; by "RRGGBB both" and "RRGGBB either"."""
    a, b = _numbers(found), _numbers(wanted)
    counted = {}
    for color in np.union1d(a, b):
        name = f"{int(color):06x}"
        counted[f"{name} both"] = float(((a == color) & (b == color)).sum())
        counted[f"{name} either"] = float(((a == color) | (b == color)).sum())
    return counted


def mean_iou(table: Table) -> float:
    """The mean over classes of pixels in both by pixels in either."""
    shares = []
    for name, either in table.items():
        if name.endswith(" either") and either.sum() > 0:
            shares.append(table[name.replace("either", "both")].sum() / either.sum())
    return float(np.mean(shares))


def _numbers(pixels: np.ndarray) -> np.ndarray:
    """Each color `(H, W, 3)` as one number `(H, W)`."""
    return pixels.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
