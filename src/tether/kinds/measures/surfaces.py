"""Errors of depth maps and of normal maps.

Depth, near is bright, in levels of 255. The root mean square error is that of ControlNet++ (arXiv:2404.07987). The
scale-invariant error (Eigen, Puhrsch, Fergus, arXiv:1406.2283, with λ = 1) is the deviation of the logarithm's
difference,

    sqrt(mean(d^2) - mean(d)^2),   d = ln(found) - ln(wanted)

over the pixels where both maps are above 0: 0.1 means that relative depths are wrong by some 10%.
"""

from __future__ import annotations

import math

import numpy as np

from tether.kinds.measures.measure import Numbers

__all__ = ["depth_error", "normal_angle", "scale_invariant_error"]

UNKNOWN_ANGLE = 90.0
"""Where a normal was wanted and none is found."""


def depth_error(found: np.ndarray, wanted: np.ndarray) -> Numbers:
    """Root mean square difference of two depth maps, uint8 `(H, W, 3)`, in levels of 255."""
    difference = found[..., 0].astype(np.float64) - wanted[..., 0]
    return {"value": float(np.sqrt((difference**2).mean()))}


def scale_invariant_error(found: np.ndarray, wanted: np.ndarray) -> Numbers:
    """Scale-invariant error of two depth maps, uint8 `(H, W, 3)`; ln 255, the most, when no pixel can be compared."""
    both = (found[..., 0] > 0) & (wanted[..., 0] > 0)
    if not both.any():
        return {"value": math.log(255)}
    difference = np.log(found[..., 0][both].astype(np.float64)) - np.log(wanted[..., 0][both].astype(np.float64))
    return {"value": float(difference.std())}


def normal_angle(found: np.ndarray, wanted: np.ndarray) -> Numbers:
    """Mean angle in degrees of two normal maps, uint8 `(H, W, 3)`, where one is wanted: black pixels have none."""
    where = wanted.any(axis=2)
    if not where.any():
        return {"value": 0.0}
    a, b = _normals(found[where]), _normals(wanted[where])
    angles = np.degrees(np.arccos(np.clip((a * b).sum(axis=1), -1, 1)))
    return {"value": float(np.where(found[where].any(axis=1), angles, UNKNOWN_ANGLE).mean())}


def _normals(levels: np.ndarray) -> np.ndarray:
    """Unit vectors `(N, 3)` of levels, 255 (n + 1) / 2."""
    vectors = levels.astype(np.float64) / 127.5 - 1
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
