"""Canny edges (Canny 1986) by OpenCV: white lines one pixel wide on black.

A pixel is an edge when its gradient is a maximum across the edge and above `high`, or above `low` and connected to such
a pixel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.errors import TetherError
from tether.kinds.kind import Annotator, Kind
from tether.kinds.measures import LINES
from tether.kinds.option import Option

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

__all__ = ["KIND", "detect", "edge_map", "fidelity", "random_canny"]

OPTIONS = {
    "low": Option(100, 0, 1000, "weakest gradient that continues an edge"),
    "high": Option(200, 0, 1000, "weakest gradient that starts an edge"),
}
LOW_RANGE, HIGH_RANGE = (40.0, 160.0), (30.0, 200.0)
"""Thresholds of `random_canny`: low, and how far high is above it."""


def edge_map(pixels: np.ndarray, low: float = 100, high: float = 200) -> np.ndarray:
    """Edges of uint8 `(H, W, 3)` RGB: uint8 `(H, W)`, 0 or 255."""
    import cv2
    import numpy as np

    return cv2.Canny(np.ascontiguousarray(pixels), low, high)


def detect(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Edges as a condition map, uint8 `(H, W, 3)`.

    Raises:
        TetherError: when low is above high.
    """
    if low > high:
        raise TetherError(f"canny low is {low:g} and high is {high:g}: low must not be above high")
    import cv2

    return cv2.cvtColor(edge_map(pixels, low, high), cv2.COLOR_GRAY2RGB)


def random_canny(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Edges with random thresholds, uint8 `(H, W)`: a control trained on them works with any thresholds."""
    low = rng.uniform(*LOW_RANGE)
    return edge_map(pixels, low, low + rng.uniform(*HIGH_RANGE))


def fidelity(image: Image.Image, condition: Image.Image) -> float:
    """`edge_f1` of an image's Canny edges at the default thresholds and a condition of white edges on black.

    A condition of another size is resized to the image's.
    """
    import numpy as np

    from tether.kinds.edges import edge_f1, white_pixels

    return edge_f1(edge_map(np.asarray(image.convert("RGB"))), white_pixels(condition, image.size))


def _vary(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return random_canny(pixels, rng)[..., None].repeat(3, axis=2)


KIND = Kind(
    "canny",
    "white edges one pixel wide on black",
    annotators={"opencv": Annotator(detect, OPTIONS)},
    resize="lines",
    metric=fidelity,
    vary=_vary,
    measures=LINES,
    names=r"canny",
)
