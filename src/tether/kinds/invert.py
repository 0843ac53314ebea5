"""Inverted: a drawing in dark lines on light paper becomes light lines on black, with all its grays.

    map = (paper - luminance) * 255 / (paper - ink)        paper, ink: the 95th and the 0.1th percentile

so that gray paper becomes black. Where so little is drawn that they are equal, ink is the darkest mean of 3x3 pixels.
A drawing on dark paper keeps its polarity, and its ground becomes black.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.kinds.kind import Annotator, Kind
from tether.kinds.measures import SOFT_LINES

if TYPE_CHECKING:
    import numpy as np

__all__ = ["INVERT", "KIND", "detect"]

LEAST = 16
"""Levels between paper and ink; with less there is no drawing."""


def detect(pixels: np.ndarray) -> np.ndarray:
    """uint8 `(H, W, 3)` RGB -> white on black, uint8 `(H, W, 3)`; black for a blank image."""
    import cv2
    import numpy as np

    gray = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY).astype(np.float32)
    if np.median(gray) < 128:
        gray = 255 - gray
    paper, ink = float(np.percentile(gray, 95)), float(np.percentile(gray, 0.1))
    if paper - ink < LEAST:
        ink = float(cv2.blur(gray, (3, 3)).min())
    if paper - ink < LEAST:
        return np.zeros_like(pixels)
    lines = np.clip((paper - gray) * (255 / (paper - ink)), 0, 255)
    return np.round(lines).astype(np.uint8)[..., None].repeat(3, axis=2)


INVERT = Annotator(detect)
KIND = Kind(
    "invert",
    "white lines on black from dark lines on paper",
    annotators={"levels": INVERT},
    resize="lines",
    measures=SOFT_LINES,
    names=r"invert(ed)?",
)
