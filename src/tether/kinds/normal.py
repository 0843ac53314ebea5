"""Surface normals: red, green and blue are (n + 1) / 2 of x to the right, y up and z to the viewer.

The published controls for Stable Diffusion 1.5 (`normalbae`, and `sd-controlnet-normal` before it) were trained with x
to the left: for them make maps with the option `left` of 1, or exchange red for 255 - red.

"depth" computes them from a depth map Z, near is 1, of any depth estimation model of transformers
(`tether detectors use depth NAME`):

    n = (-s dZ/dx, -s dZ/dy, 1) / |...|        x, y in shorter sides of the image, y up
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.kinds.kind import Annotator, Kind, mirror
from tether.kinds.measures import NORMALS
from tether.kinds.option import Option
from tether.kinds.weights import hash_of, needs

if TYPE_CHECKING:
    import numpy as np

__all__ = ["KIND", "detect", "flip", "normals_of"]

OPTIONS = {
    "strength": Option(1, 0.01, 100, "how deep the nearest point is before the farthest, in shorter sides"),
    "left": Option(0, 0, 1, "1: red is x to the left, as published controls want it; 0: to the right"),
}


def normals_of(nearness: np.ndarray, strength: float = 1, left: float = 0) -> np.ndarray:
    """Normals of a depth map `(H, W)`, near is 1 and far is 0: uint8 `(H, W, 3)`; with `left`, red is x to the left."""
    import numpy as np

    scale = strength * min(nearness.shape)
    down, right = (
        np.gradient(nearness.astype(np.float32), axis=axis) if nearness.shape[axis] > 1 else np.zeros_like(nearness)
        for axis in (0, 1)
    )
    normals = np.stack(
        [scale * right if left >= 0.5 else -scale * right, scale * down, np.ones(nearness.shape, np.float32)], axis=2
    )
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    return np.round((normals + 1) * 127.5).astype(np.uint8)


def detect(pixels: np.ndarray, strength: float, left: float) -> np.ndarray:
    """Normals of uint8 `(H, W, 3)` RGB: uint8 `(H, W, 3)`.

    Raises:
        TetherError: when there is no depth model.
    """
    from tether.detectors.depth import nearness

    return normals_of(nearness(pixels), strength, left)


def flip(pixels: np.ndarray) -> np.ndarray:
    """A map `(H, W, 3)` of the mirrored surface: n_x changes its sign. Black pixels have no normal and stay black."""
    flipped = mirror(pixels).copy()
    normals = flipped.any(axis=2)
    flipped[normals, 0] = 255 - flipped[normals, 0]
    return flipped


KIND = Kind(
    "normal",
    "surface normals",
    annotators={"depth": Annotator(detect, OPTIONS, ready=needs("depth"), weights=hash_of("depth"))},
    flip=flip,
    measures=NORMALS,
    names=r"normal(bae|map)?",
)
