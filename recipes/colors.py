"""The color of a drawing in a word, and the same drawing in another color.

Colors are compared and changed in OKLab (Ottosson 2020), where a step of hue or lightness looks alike everywhere: L is
lightness in [0, 1], C = |(a, b)| the chroma and h = atan2(b, a) the hue. A drawing can be recolored where one color
covers at least half of it. With weights w in [0, 1] that say how much a pixel is of that color (of mean L_0, C_0, h_0),
it is moved to the named color (L_1, C_1, h_1):

    h += w (h_1 - h_0),   C *= 1 - w + w C_1 / max(C_0, 0.03),   L += 0.75 w (L_1 - L_0).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tether.datasets.synthetic.scenes import COLORS

_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
CHROMATIC = 0.055
"""Chroma above which a pixel has a hue; below it is white, grey or black."""
NEAR_HUE, FAR_HUE = np.radians(28), np.radians(45)
"""Up to which distance a hue is wholly the drawing's, and from which on it is not at all."""
LEAST_SHARE = 0.5


def to_oklab(rgb: np.ndarray) -> np.ndarray:
    """sRGB in 0..255 `(..., 3)` -> OKLab `(..., 3)`."""
    value = np.asarray(rgb, np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T


def from_oklab(lab: np.ndarray) -> np.ndarray:
    """OKLab `(..., 3)` -> sRGB uint8 `(..., 3)`; what lies outside of sRGB is clipped."""
    linear = ((lab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_LMS).T).clip(0, 1)
    value = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * value).astype(np.uint8)


_NAMED = {name: to_oklab(np.array(rgb)) for name, rgb in COLORS.items()}


@dataclass(frozen=True)
class MainColor:
    """The color that covers most of a drawing.

    Attributes:
        name: a key of `COLORS`.
        share: of the opaque pixels, in [0, 1].
        lab: the mean of its pixels in OKLab, `(3,)`.
        weights: how much each pixel is of it, `(H, W)` in [0, 1].
    """

    name: str
    share: float
    lab: np.ndarray
    weights: np.ndarray


def main_color(rgba: np.ndarray) -> MainColor:
    """The color that covers most of a drawing, uint8 `(H, W, 4)`."""
    lab, opaque = to_oklab(rgba[..., :3]), rgba[..., 3] > 127
    chroma, hue = np.hypot(lab[..., 1], lab[..., 2]), np.arctan2(lab[..., 2], lab[..., 1])
    colored = opaque & (chroma > CHROMATIC)
    counts, edges = np.histogram(hue[colored], bins=72, range=(-np.pi, np.pi))
    smooth = sum(np.roll(counts, k) for k in range(-4, 5))
    peak = (edges[:-1] + edges[1:])[int(smooth.argmax())] / 2
    grey = ((CHROMATIC - chroma) / 0.02 + 0.5).clip(0, 1)
    near = ((FAR_HUE - np.abs(_turn(hue - peak))) / (FAR_HUE - NEAR_HUE)).clip(0, 1) * (1 - grey)
    weights = max(near, grey, key=lambda w: float(w[opaque].sum()))
    mean = np.average(lab[opaque], axis=0, weights=weights[opaque] + 1e-6)
    return MainColor(_name(mean, weights is grey), float(weights[opaque].mean()), mean, weights)


def _turn(angle: np.ndarray) -> np.ndarray:
    """Angles in (-pi, pi]."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _name(lab: np.ndarray, grey: bool) -> str:
    """The named color nearest to one in OKLab, hue counting more than lightness."""
    names = [name for name in COLORS if (name in ("black", "white", "grey")) == grey]
    distances = [np.linalg.norm((lab - _NAMED[name]) * (1.0 if grey else 0.5, 1.5, 1.5)) for name in names]
    return names[int(np.argmin(distances))]


def recolored(rgba: np.ndarray, main: MainColor, color: str) -> np.ndarray:
    """A drawing with its main color changed to a named one, uint8 `(H, W, 4)`."""
    lab, wanted, w = to_oklab(rgba[..., :3]), _NAMED[color], main.weights
    chroma, hue = np.hypot(lab[..., 1], lab[..., 2]), np.arctan2(lab[..., 2], lab[..., 1])
    old, new = (float(np.hypot(*color[1:])) for color in (main.lab, wanted))
    goal = float(np.arctan2(wanted[2], wanted[1]))
    light = (lab[..., 0] + 0.75 * w * (wanted[0] - main.lab[0])).clip(0, 1)
    if main.name in ("black", "white", "grey"):  # what has no hue takes the new one, less of it where it is very light
        hue = np.where(w > 0.5, goal, hue)
        chroma = chroma * (1 - w) + w * new
    else:
        hue = hue + w * _turn(goal - np.arctan2(main.lab[2], main.lab[1]))
        chroma = chroma * (1 - w + w * new / max(old, 0.03))
    result = np.stack([light, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
    return np.concatenate([from_oklab(result), rgba[..., 3:]], axis=-1)
