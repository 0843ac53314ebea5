"""Line art, white on black, gray where a line is faint.

"classical" needs no weights. A line is drawn where an image is darker than its surroundings, at a fine and a middle
scale, from a difference of two Gaussians; faint contours between two colors are added from the thinned gradient:

    D_s  = max over channels of (G_4s - G_s) * x
    line = max(ramp(D_1), ramp(D_2), thin(|∇ G_1.5 * x|))

It draws photographs, and drawings in dark ink on paper become white lines on black. "sketch" is the network of
"Learning to generate line drawings that convey geometry and semantics" (arXiv:2203.12691), which published controls
were trained with; its weights are the user's own: `tether detectors use lineart PATH`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.kinds.invert import INVERT
from tether.kinds.kind import Annotator, Kind
from tether.kinds.measures import SOFT_LINES
from tether.kinds.option import Option
from tether.kinds.weights import needs

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ANNOTATORS", "KIND", "detect", "line_art", "random_line_art"]

OPTIONS = {
    "threshold": Option(6, 1, 100, "how much darker than its surroundings the faintest line is, in levels"),
    "contrast": Option(24, 1, 255, "how much darker a line is that is white"),
    "contours": Option(0.7, 0, 1, "brightness of contours between two colors"),
}
FINE, SIDE = 0.8, 512
"""Standard deviation of the finest Gaussian in pixels of an image whose shorter side is `SIDE`."""


def line_art(pixels: np.ndarray, threshold: float = 6, contrast: float = 24, contours: float = 0.7) -> np.ndarray:
    """Lines of uint8 `(H, W, 3)` RGB: float32 `(H, W)` in [0, 1]."""
    import cv2
    import numpy as np

    scale = FINE * max(0.5, min(pixels.shape[:2]) / SIDE)
    values = pixels.astype(np.float32)
    fine, middle, coarse = (cv2.GaussianBlur(values, (0, 0), scale * s) for s in (1, 2, 5))
    darker = cv2.max(_largest(coarse - fine), _largest(coarse - middle))
    lines = np.clip((darker - threshold) / contrast, 0, 1)
    if contours:
        lines = cv2.max(lines, np.float32(contours) * _thin_gradient(middle, threshold, contrast))
    return lines


def detect(pixels: np.ndarray, threshold: float, contrast: float, contours: float) -> np.ndarray:
    """Line art as a condition map, uint8 `(H, W, 3)`; of a drawing in light ink on dark paper, its negative's."""
    import cv2

    from tether.kinds.doodle import has_light_ink, looks_drawn

    if has_light_ink(pixels) and looks_drawn(pixels):
        pixels = 255 - pixels
    lines = cv2.convertScaleAbs(line_art(pixels, threshold, contrast, contours), alpha=255)
    return cv2.cvtColor(lines, cv2.COLOR_GRAY2RGB)


def random_line_art(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Line art of random options, uint8 `(H, W, 3)`: a control trained on it works with any."""
    return detect(pixels, rng.uniform(4, 12), rng.uniform(12, 40), rng.uniform(0.4, 1))


def detect_sketch(pixels: np.ndarray) -> np.ndarray:
    """The network's lines as a condition map, uint8 `(H, W, 3)`.

    Raises:
        TetherError: when there are no weights, or they are not of this network.
    """
    from tether.detectors.sketch import sketch_map

    return sketch_map(pixels)[..., None].repeat(3, axis=2)


def _largest(channels: np.ndarray) -> np.ndarray:
    import cv2

    red, green, blue = cv2.split(channels)
    return cv2.max(cv2.max(red, green), blue)


def _thin_gradient(values: np.ndarray, threshold: float, contrast: float) -> np.ndarray:
    """Gradients `(H, W)` in [0, 1], less what is not the ridge of an edge: a top-hat of a few pixels."""
    import cv2
    import numpy as np

    dx = cv2.Sobel(values, cv2.CV_32F, 1, 0, scale=1 / 8)
    dy = cv2.Sobel(values, cv2.CV_32F, 0, 1, scale=1 / 8)
    strength = _largest(cv2.magnitude(dx, dy))
    ridge = strength - cv2.blur(strength, (9, 9))
    return np.clip((2 * ridge - threshold / 2) / contrast * 2, 0, 1)


ANNOTATORS = {
    "classical": Annotator(detect, OPTIONS),
    "invert": INVERT,
    "sketch": Annotator(detect_sketch, ready=needs("lineart")),
}
KIND = Kind(
    "lineart",
    "white line art on black",
    annotators=ANNOTATORS,
    resize="lines",
    vary=random_line_art,
    measures=SOFT_LINES,
    names=r"lineart",
)
