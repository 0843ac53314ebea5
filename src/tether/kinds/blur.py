"""Blurred: the image without its details, by a Gaussian of a share of its shorter side.

A large one acts on a reduced image, whose details it would remove anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.kinds.kind import Annotator, Kind
from tether.kinds.measures import TONES
from tether.kinds.option import Option

if TYPE_CHECKING:
    import numpy as np

__all__ = ["KIND", "blurred"]

OPTIONS = {"sigma": Option(2, 0.1, 25, "standard deviation, in percent of the shorter side")}
FINE = 8.0
"""Deviation in pixels that a large blur has on the reduced image, at least."""
LEAST, MOST = 1.0, 6.0
"""Of `random_blur`, in percent."""


def blurred(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """uint8 `(H, W, 3)` RGB, blurred."""
    import cv2
    import numpy as np

    deviation, image = max(0.1, sigma / 100 * min(pixels.shape[:2])), np.ascontiguousarray(pixels)
    times = int(deviation / FINE)
    if times < 2:
        return cv2.GaussianBlur(image, (0, 0), deviation)
    height, width = pixels.shape[:2]
    small = cv2.resize(image, (-(-width // times), -(-height // times)), interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(small.astype(np.float32), (0, 0), deviation / times)
    enlarged = cv2.resize(soft, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.round(enlarged.clip(0, 255)).astype(np.uint8)


def random_blur(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blurred by a random sigma, log-uniformly."""
    return blurred(pixels, LEAST * (MOST / LEAST) ** rng.uniform())


KIND = Kind(
    "blur",
    "the image without details",
    annotators={"gaussian": Annotator(blurred, OPTIONS)},
    vary=random_blur,
    measures=TONES,
    names=r"blur",
)
