"""Recolor: the luminance of an image, gray, to which a control adds colors.

Y = (0.299 R + 0.587 G + 0.114 B), of 255, to the power of gamma
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.kinds.kind import Annotator, Kind
from tether.kinds.measures import TONES
from tether.kinds.option import Option

if TYPE_CHECKING:
    import numpy as np

__all__ = ["KIND", "luminance"]

OPTIONS = {"gamma": Option(1, 0.1, 10, "above 1 darker, below 1 lighter")}


def luminance(pixels: np.ndarray, gamma: float) -> np.ndarray:
    """uint8 `(H, W, 3)` RGB -> gray, uint8 `(H, W, 3)`."""
    import cv2
    import numpy as np

    gray = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    if gamma != 1:
        gray = cv2.LUT(gray, np.round(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8))
    return cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB)


KIND = Kind(
    "recolor",
    "luminance, to be colored",
    annotators={"luminance": Annotator(luminance, OPTIONS)},
    measures=TONES,
    names=r"recolor|luminance|gr[ae]y(scale)?|coloriz(e|ation)",
)
