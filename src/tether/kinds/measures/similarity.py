"""Similarity of gray maps and of pictures, without a network.

MS-SSIM (Wang, Simoncelli, Bovik, "Multiscale structural similarity for image quality assessment", 2003), 11 x 11
windows of a Gaussian with deviation 1.5, K = (0.01, 0.03), means over the places where the window lies inside:

    SSIM    = l cs,   l = (2 m_x m_y + C1) / (m_x^2 + m_y^2 + C1),   cs = (2 s_xy + C2) / (s_x^2 + s_y^2 + C2)
    MS-SSIM = mean(l cs)_M^w_M  prod_{j<M} mean(cs)_j^w_j            scale j + 1 is scale j, averaged over 2 x 2 pixels

with M = 5 scales. Maps whose shorter side is below 176 pixels have as many scales as the window fits into, 4 from 88
pixels on, whose weights are raised to the same sum: scores of different M are not comparable.

GMSD, gradient magnitude similarity deviation (Xue, Zhang, Mou, Bovik, arXiv:1308.3052): pictures in gray are averaged
over 2 x 2 pixels, m is the length of Prewitt's gradient, and

    GMSD = deviation of (2 m_x m_y + c) / (m_x^2 + m_y^2 + c) over all pixels,   c = 170

It agrees with people's opinions on distortions about as well as measures that need a trained network; it sees no color.
The color difference beside it is the mean distance in CIELAB, ΔE*_ab of 1976.
"""

from __future__ import annotations

import cv2
import numpy as np

from tether.errors import TetherError
from tether.kinds.measures.measure import Numbers

__all__ = ["color_difference", "gmsd", "gradient_deviation", "map_similarity", "ms_ssim", "scales_of"]

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, DEVIATION = 11, 1.5
K1, K2 = 0.01, 0.03
GRADIENT_CONSTANT = 170.0


def map_similarity(found: np.ndarray, wanted: np.ndarray) -> Numbers:
    """MS-SSIM of two maps, uint8 `(H, W, 3)`, as gray."""
    return {"value": ms_ssim(_gray(found), _gray(wanted))}


def gradient_deviation(found: np.ndarray, wanted: np.ndarray, hole: np.ndarray | None = None) -> Numbers:
    """GMSD of two pictures, uint8 `(H, W, 3)`, of the pixels of a hole alone if one is given, bool `(H, W)`."""
    return {"value": gmsd(_gray(found), _gray(wanted), hole)}


def color_difference(found: np.ndarray, wanted: np.ndarray, hole: np.ndarray | None = None) -> Numbers:
    """Mean ΔE*_ab of two pictures, uint8 `(H, W, 3)` sRGB, in a hole alone if one is given, bool `(H, W)`."""
    a, b = (cv2.cvtColor(one.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for one in (found, wanted))
    return {"value": float(np.linalg.norm(a - b, axis=2).mean(where=True if hole is None else hole))}


def scales_of(height: int, width: int) -> int:
    """How many scales MS-SSIM has at a size, 1 to 5.

    Raises:
        TetherError: when the window does not fit.
    """
    side, scales = min(height, width), 0
    while scales < len(WEIGHTS) and side >= WINDOW:
        side, scales = side // 2, scales + 1
    if not scales:
        raise TetherError(f"MS-SSIM needs {WINDOW} pixels a side, not {width}x{height}")
    return scales


def ms_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """MS-SSIM of two gray images `(H, W)` with levels in 0..255; from 0 to 1. Negative contrasts count as 0.

    Raises:
        TetherError: for images of different sizes, or below 11 pixels a side.
    """
    if x.shape != y.shape or x.ndim != 2:
        raise TetherError(f"images have shapes {x.shape} and {y.shape}: they must be (H, W), and the same")
    scales = scales_of(*x.shape)
    weights = np.array(WEIGHTS[:scales]) * (sum(WEIGHTS) / sum(WEIGHTS[:scales]))
    x, y, score = x.astype(np.float64), y.astype(np.float64), 1.0
    for k, weight in enumerate(weights):
        luminance, contrast = _ssim_parts(x, y)
        part = (luminance * contrast).mean() if k == scales - 1 else contrast.mean()
        score *= max(float(part), 0.0) ** weight
        x, y = _halved(x), _halved(y)
    return score


def gmsd(x: np.ndarray, y: np.ndarray, hole: np.ndarray | None = None) -> float:
    """GMSD of two gray images `(H, W)` with levels in 0..255: 0 for equal ones.

    Args:
        x, y: the images.
        hole: bool `(H, W)`, the pixels that count; all of them by default.

    Raises:
        TetherError: for images of different sizes.
    """
    if x.shape != y.shape or x.ndim != 2:
        raise TetherError(f"images have shapes {x.shape} and {y.shape}: they must be (H, W), and the same")
    a, b = (_gradient(_halved(one.astype(np.float64))) for one in (x, y))
    similarity = (2 * a * b + GRADIENT_CONSTANT) / (a**2 + b**2 + GRADIENT_CONSTANT)
    if hole is None:
        return float(similarity.std())
    return float(similarity.std(where=_halved(hole.astype(np.float64)) > 0))


def _gray(pixels: np.ndarray) -> np.ndarray:
    """Luminance (ITU-R BT.601) of `(H, W, 3)`, float64 `(H, W)`."""
    return pixels.astype(np.float64) @ np.array([0.299, 0.587, 0.114])


def _ssim_parts(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Luminance l and contrast-structure cs at every place of the window."""
    c1, c2 = (K1 * 255) ** 2, (K2 * 255) ** 2
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x, var_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * covariance + c2) / (var_x + var_y + c2)


def _blurred(x: np.ndarray) -> np.ndarray:
    """The window's weighted mean at the places where it lies inside the image."""
    edge = WINDOW // 2
    return cv2.GaussianBlur(x, (WINDOW, WINDOW), DEVIATION)[edge:-edge, edge:-edge]


def _halved(x: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels; the last row or column of an odd number is left out."""
    height, width = x.shape[0] // 2 * 2, x.shape[1] // 2 * 2
    return x[:height, :width].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))


def _gradient(x: np.ndarray) -> np.ndarray:
    """Length of Prewitt's gradient, with zeros outside of the image."""
    kernel = np.repeat(np.array([[1.0, 0.0, -1.0]]) / 3, 3, axis=0)
    parts = [cv2.filter2D(x, -1, one, borderType=cv2.BORDER_CONSTANT) for one in (kernel, kernel.T)]
    return np.hypot(*parts)
