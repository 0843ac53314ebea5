"""Surface normals: red, green and blue are (n + 1) / 2 of the x, y and z components. Maps are given ready-made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.kinds.kind import Kind, mirror
from tether.kinds.measures import NORMALS

if TYPE_CHECKING:
    import numpy as np

__all__ = ["KIND", "flip"]


def flip(pixels: np.ndarray) -> np.ndarray:
    """A map `(H, W, 3)` of the mirrored surface: n_x changes its sign. Black pixels have no normal and stay black."""
    flipped = mirror(pixels).copy()
    normals = flipped.any(axis=2)
    flipped[normals, 0] = 255 - flipped[normals, 0]
    return flipped


KIND = Kind(
    "normal",
    "surface normals",
    flip=flip,
    measures=NORMALS,
    names=r"normal(bae|map)?",
)
