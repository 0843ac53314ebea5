"""Shuffled content (ControlNet 1.1): only its colors and parts count, not where they are.

    map(x) = image(x + F(x))        F: smooth random vectors that reach as far as the image

F is noise of a few points a side, enlarged smoothly and stretched to [0, 1], as positions in the image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.kinds.kind import Annotator, Kind
from tether.kinds.option import Option

if TYPE_CHECKING:
    import numpy as np

__all__ = ["KIND", "shuffled"]

OPTIONS = {"seed": Option(0, 0, 2**31, "another seed shuffles differently")}
POINTS = 5
"""Random points a side."""


def shuffled(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 `(H, W, 3)` RGB with its content moved about."""
    import cv2
    import numpy as np

    height, width = pixels.shape[:2]
    places = []
    for side in (width, height):
        noise = rng.random((POINTS, POINTS), np.float32)
        smooth = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        low, high = float(smooth.min()), float(smooth.max())
        places.append((smooth - low) * ((side - 1) / max(high - low, 1e-6)))
    x, y = places
    return cv2.remap(np.ascontiguousarray(pixels), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def detect(pixels: np.ndarray, seed: float) -> np.ndarray:
    """The map of a seed, uint8 `(H, W, 3)`."""
    import numpy as np

    return shuffled(pixels, np.random.default_rng(int(seed)))


KIND = Kind(
    "shuffle",
    "an image with its content shuffled",
    annotators={"flow": Annotator(detect, OPTIONS)},
    vary=shuffled,
    pools_globally=True,
    names=r"shuffle",
)
