"""Tile: the condition is the image with little detail, to which a control adds some.

For training, an image loses detail: it is reduced by a random factor and enlarged again, as ControlNet 1.1's own
preprocessor does ("down sampling rate").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.kinds.kind import Annotator, Kind
from tether.kinds.measures import DETAIL
from tether.kinds.option import Option

if TYPE_CHECKING:
    import numpy as np

__all__ = ["KIND", "random_tile", "reduced"]

LARGEST_FACTOR = 8.0
OPTIONS = {"factor": Option(1, 1, 64, "by how much the image is reduced; 1 leaves it as it is")}


def reduced(pixels: np.ndarray, factor: float) -> np.ndarray:
    """uint8 `(H, W, 3)` RGB, reduced by a factor and enlarged again."""
    import cv2
    import numpy as np

    height, width = pixels.shape[:2]
    small = max(1, round(width / factor)), max(1, round(height / factor))
    image = np.ascontiguousarray(pixels)
    if small == (width, height):
        return image
    less = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return cv2.resize(less, (width, height), interpolation=cv2.INTER_CUBIC)


def random_tile(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 `(H, W, 3)` RGB, reduced by 2 to 8 (log-uniformly) and enlarged again."""
    return reduced(pixels, LARGEST_FACTOR ** rng.uniform(1 / 3, 1))


KIND = Kind(
    "tile",
    "the image itself, to add detail to",
    annotators={"resample": Annotator(reduced, OPTIONS)},
    is_image=True,
    vary=random_tile,
    measures=DETAIL,
    names=r"tile",
)
