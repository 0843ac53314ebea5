"""Straight lines, white on black, one pixel wide.

"lsd" needs no weights: the line segment detector of von Gioi et al. (IPOL 2012, doi:10.5201/ipol.2012.gjmr-lsd) in
OpenCV. "mlsd" is M-LSD tiny (arXiv:2106.00186), whose weights are shipped; published controls were trained with the
lines of its larger sibling, short ones too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tether.kinds.kind import Annotator, Kind
from tether.kinds.measures import LINES
from tether.kinds.option import Option

if TYPE_CHECKING:
    import numpy as np

__all__ = ["KIND", "detect", "draw_lines", "line_segments"]

LENGTH = Option(6, 0, 100, "shortest line, in percent of the shorter side")
OPTIONS = {"length": LENGTH}
OPTIONS_MLSD = {"score": Option(0.1, 0.01, 1, "how sure a line is"), "length": replace(LENGTH, default=0)}


def line_segments(pixels: np.ndarray, length: float = 6) -> np.ndarray:
    """Segments of uint8 `(H, W, 3)` RGB: float32 `(N, 4)` of x0, y0, x1, y1 in pixels.

    Args:
        pixels: the image.
        length: of the shortest segment, in percent of the shorter side.
    """
    import cv2
    import numpy as np

    gray = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    if min(gray.shape) < 3:  # LSD reduces the image first, to nothing
        return np.zeros((0, 4), np.float32)
    found = cv2.createLineSegmentDetector(cv2.LSD_REFINE_NONE).detect(gray)[0]
    segments = np.zeros((0, 4), np.float32) if found is None else found.reshape(-1, 4)
    return longer(segments, length / 100 * min(gray.shape))


def longer(segments: np.ndarray, least: float) -> np.ndarray:
    """The segments `(N, 4)` of at least a length in pixels."""
    import numpy as np

    return segments[np.hypot(segments[:, 2] - segments[:, 0], segments[:, 3] - segments[:, 1]) >= least]


def draw_lines(segments: np.ndarray, height: int, width: int) -> np.ndarray:
    """Segments `(N, 4)` as a condition map, uint8 `(H, W, 3)`."""
    import cv2
    import numpy as np

    drawn = np.zeros((height, width), np.uint8)
    ends = np.round(segments.reshape(-1, 2, 2)).astype(np.int32)
    cv2.polylines(drawn, list(ends), False, 255)
    return cv2.cvtColor(drawn, cv2.COLOR_GRAY2RGB)


def detect(pixels: np.ndarray, length: float) -> np.ndarray:
    """LSD's lines as a condition map, uint8 `(H, W, 3)`."""
    return draw_lines(line_segments(pixels, length), *pixels.shape[:2])


def detect_mlsd(pixels: np.ndarray, score: float, length: float) -> np.ndarray:
    """M-LSD's lines as a condition map, uint8 `(H, W, 3)`."""
    from tether.detectors.mlsd import mlsd_segments

    segments = mlsd_segments(pixels, score)
    return draw_lines(longer(segments, length / 100 * min(pixels.shape[:2])), *pixels.shape[:2])


KIND = Kind(
    "mlsd",
    "straight white lines on black",
    annotators={"lsd": Annotator(detect, OPTIONS), "mlsd": Annotator(detect_mlsd, OPTIONS_MLSD)},
    resize="lines",
    measures=LINES,
    names=r"mlsd|hough|lines",
    aliases=("lines",),
)
