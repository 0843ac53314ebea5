"""Soft edges, gray on black, a few pixels wide, brighter where an edge is stronger.

"gradient" needs no weights: an edge is what shows at every scale of a pyramid, so that texture, which a coarse scale
does not see, stays dark, and the fine scale says where the edge is.

    g_k = |∇ (image reduced by 2^k)|, the largest of the three channels, enlarged to the image's size
    e   = 1 - exp(-max((g_0 g_1 g_2 g_3)^(1/4) - q, 0) / c)

"hed" is the network of published controls (HED, arXiv:1504.06375): `tether detectors install hed`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.kinds.kind import Annotator, Kind
from tether.kinds.measures import SOFT_LINES
from tether.kinds.option import Option
from tether.kinds.weights import needs

if TYPE_CHECKING:
    import numpy as np

__all__ = ["KIND", "detect", "random_soft_edges", "soft_edges"]

OPTIONS = {
    "contrast": Option(8, 0.5, 100, "levels a pixel at which an edge is bright; less shows weaker edges"),
}
LEVELS, SIDE = 4, 512
"""Scales of the pyramid, whose mean is two square roots; above this shorter side it begins at a reduced image."""
LEAST = 3
"""Smallest side of a scale: fewer pixels have no gradient."""
QUIET = 1.5
"""q: levels a pixel that are noise."""


def soft_edges(pixels: np.ndarray, contrast: float = 8) -> np.ndarray:
    """Edge strength of uint8 `(H, W, 3)` RGB: float32 `(H, W)` in [0, 1]."""
    import cv2
    import numpy as np

    height, width = pixels.shape[:2]
    level = cv2.GaussianBlur(np.ascontiguousarray(pixels), (0, 0), 1.0)
    first = max(0, round(np.log2(min(height, width) / SIDE)))
    product, count = None, 0
    for k in range(first + LEVELS):
        if k >= first and (min(level.shape[:2]) >= LEAST or product is None):
            count += 1
            strength = _gradient(level)
            if strength.shape != (height, width):
                strength = cv2.resize(strength, (width, height), interpolation=cv2.INTER_LINEAR)
            product = strength if product is None else cv2.multiply(product, strength, product)
        half = max(1, level.shape[1] // 2), max(1, level.shape[0] // 2)
        level = cv2.resize(level, half, interpolation=cv2.INTER_AREA)
    mean = np.sqrt(np.sqrt(product)) if count == LEVELS else product ** np.float32(1 / count)  # type: ignore[arg-type, operator]
    mean -= np.float32(QUIET)
    np.maximum(mean, 0, out=mean)
    mean *= np.float32(-1 / contrast)
    return 1 - np.asarray(cv2.exp(mean))


def detect(pixels: np.ndarray, contrast: float) -> np.ndarray:
    """Soft edges as a condition map, uint8 `(H, W, 3)`."""
    import cv2

    return cv2.cvtColor(cv2.convertScaleAbs(soft_edges(pixels, contrast), alpha=255), cv2.COLOR_GRAY2RGB)


def random_soft_edges(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Soft edges of a random contrast, uint8 `(H, W, 3)`: a control trained on them works with any."""
    return detect(pixels, 4.0 * 4.0 ** rng.uniform())


def detect_hed(pixels: np.ndarray) -> np.ndarray:
    """HED's edges as a condition map, uint8 `(H, W, 3)`.

    Raises:
        TetherError: when the network is not installed.
    """
    from tether.detectors.hed import hed_map

    return hed_map(pixels)[..., None].repeat(3, axis=2)


def _gradient(pixels: np.ndarray) -> np.ndarray:
    """The largest gradient of the channels of `(H, W, 3)`, in levels a pixel, float32 `(H, W)`."""
    import cv2

    largest = None
    for plane in cv2.split(pixels):
        dx, dy = cv2.Sobel(plane, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(plane, cv2.CV_32F, 0, 1, scale=1 / 8)
        strength = cv2.magnitude(dx, dy)
        largest = strength if largest is None else cv2.max(largest, strength, largest)
    return largest  # type: ignore[return-value]


KIND = Kind(
    "softedge",
    "soft gray edges on black",
    annotators={"gradient": Annotator(detect, OPTIONS), "hed": Annotator(detect_hed, ready=needs("hed"))},
    resize="lines",
    vary=random_soft_edges,
    measures=SOFT_LINES,
    names=r"softedge|hed|pidi(net)?",
)
