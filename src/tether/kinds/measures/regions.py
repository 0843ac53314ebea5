"""Mean intersection over union of classes, one color each.

Pixels are counted over all pictures, as is usual: the IoU of class c is pixels of c in both maps / pixels of c in
either, and the score is the mean over the classes that some map has.

Areas may also be drawn in their own mean colors, which are never quite the same twice: a color that the wanted map does
not have stands for the nearest that it has, if that is within `NEAR` in CIELAB. Two maps of ADE20K's classes, many of
whose colors are closer than this, are compared as they are, but for pixels that have no class, black in the wanted map.
"""

from __future__ import annotations

import cv2
import numpy as np

from tether.kinds.ade20k import is_ade20k
from tether.kinds.measures.measure import Numbers, Table

__all__ = ["mean_iou", "object_overlaps", "overlaps"]

NEAR = 20.0
"""Colors of two areas are further apart than this."""
WHITE, BLACK = np.full(3, 255, np.uint8), np.zeros(3, np.uint8)
MOST = 256
"""Maps of more colors are not of classes or areas, and compared as they are."""


def overlaps(found: np.ndarray, wanted: np.ndarray) -> Numbers:
    """Pixels of each color in both maps, and in either, uint8 `(H, W, 3)`; by "RRGGBB both" and "RRGGBB either"."""
    a, b = _numbers(_recolored(found, wanted)), _numbers(wanted)
    if b.any() and is_ade20k(wanted):
        a, b = a[b > 0], b[b > 0]
    counted = {}
    for color in np.union1d(a, b):
        name = f"{int(color):06x}"
        counted[f"{name} both"] = float(((a == color) & (b == color)).sum())
        counted[f"{name} either"] = float(((a == color) | (b == color)).sum())
    return counted


def object_overlaps(found: np.ndarray, wanted: np.ndarray) -> Numbers:
    """The same of masks, uint8 `(H, W, 3)` with soft borders: of what is at least half white, and of the rest."""
    return overlaps(*(np.where(one.mean(axis=2, keepdims=True) >= 127.5, WHITE, BLACK) for one in (found, wanted)))


def mean_iou(table: Table) -> float:
    """The mean over classes of pixels in both by pixels in either."""
    shares = []
    for name, either in table.items():
        if name.endswith(" either") and either.sum() > 0:
            shares.append(table[name.replace("either", "both")].sum() / either.sum())
    return float(np.mean(shares))


def _recolored(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """`found` `(H, W, 3)` with its colors exchanged for those of `wanted` that they stand for."""
    if is_ade20k(found) and is_ade20k(wanted):
        return found
    colors, places = np.unique(found.reshape(-1, 3), axis=0, return_inverse=True)
    known = np.unique(wanted.reshape(-1, 3), axis=0)
    if max(len(colors), len(known)) > MOST:
        return found
    distances = np.linalg.norm(_lab(colors)[:, None] - _lab(known), axis=2)
    near = distances.min(axis=1) <= NEAR
    colors[near] = known[distances.argmin(axis=1)[near]]
    return colors[places.reshape(-1)].reshape(found.shape)


def _lab(colors: np.ndarray) -> np.ndarray:
    """RGB `(N, 3)` of 255 in CIELAB."""
    return cv2.cvtColor(colors[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]


def _numbers(pixels: np.ndarray) -> np.ndarray:
    """Each color `(H, W, 3)` as one number `(H, W)`."""
    return pixels.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
