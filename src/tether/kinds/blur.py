"""Blurred: the image without its details, by a Gaussian of a share of its shorter side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.kinds.kind import Annotator, Kind
from tether.kinds.measures import TONES
from tether.kinds.option import Option

if TYPE_CHECKING:
    import numpy as np

__all__ = ["KIND", "blurred"]

OPTIONS = {"sigma": Option(2, 0.1, 25, "standard deviation, in percent of the shorter side")}
LEAST, MOST = 1.0, 6.0
"""Of `random_blur`, in percent."""


def blurred(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """uint8 `(H, W, 3)` RGB, blurred."""
    import cv2
    import numpy as np

    return cv2.GaussianBlur(np.ascontiguousarray(pixels), (0, 0), max(0.1, sigma / 100 * min(pixels.shape[:2])))


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
