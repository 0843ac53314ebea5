"""Backgrounds: the plain named colors, and simple places to put things: a table, grass, the sky and so on."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from common import SIZE
from tether.datasets.synthetic.emoji import BACKGROUNDS

VARIANTS = 10
"""Images of each place."""
Painter = Callable[[np.random.Generator], tuple[np.ndarray, float]]


def _fade(top: tuple[int, ...], bottom: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """An image that goes from one color at the top to another at the bottom, each a little changed."""
    ends = np.array([top, bottom], float) + rng.uniform(-10, 10, (2, 1)) + rng.uniform(-4, 4, (2, 3))
    along = np.linspace(0, 1, SIZE)[:, None, None]
    return np.broadcast_to(ends[0] * (1 - along) + ends[1] * along, (SIZE, SIZE, 3)).copy()


def _ground(
    sky: tuple[tuple[int, ...], tuple[int, ...]], land: tuple[tuple[int, ...], tuple[int, ...]]
) -> Callable[[np.random.Generator], tuple[np.ndarray, float]]:
    """A painter of a band of land under a sky or wall."""

    def paint(rng: np.random.Generator) -> tuple[np.ndarray, float]:
        horizon = float(rng.uniform(0.52, 0.7))
        picture, row = _fade(*sky, rng), round(horizon * SIZE)
        picture[row:] = _fade(*land, rng)[row:]
        return picture, horizon

    return paint


def _blobs(picture: np.ndarray, center: tuple[float, float], width: float, rng: np.random.Generator) -> None:
    """A white cloud of a few discs, painted into the image."""
    for k in range(5):
        x, y = center[0] + (k - 2) * width / 5, center[1] - rng.uniform(0, width / 6) * (k in (1, 2, 3))
        radius = width * (0.2 if k in (1, 2, 3) else 0.13)
        at = round(16 * x), round(16 * y)
        cv2.circle(picture, at, round(16 * radius), (252.0, 253.0, 255.0), -1, cv2.LINE_AA, 4)


def _sky(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    picture = _fade((92, 160, 232), (176, 216, 246), rng).astype(np.uint8)
    for x, y in ((rng.uniform(0, 45), rng.uniform(18, 40)), (rng.uniform(80, 128), rng.uniform(60, 105))):
        _blobs(picture, (x, y), rng.uniform(30, 46), rng)
    return picture, 0.0


def _space(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    picture = _fade((14, 16, 44), (30, 20, 62), rng).clip(0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(22, 36))):
        at = tuple(int(v) for v in rng.integers(0, SIZE * 16, 2))
        cv2.circle(picture, at, int(rng.integers(9, 22)), (245, 245, 235), -1, cv2.LINE_AA, 4)
    return picture, 0.0


def _water(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    picture = _fade((88, 190, 220), (24, 92, 168), rng).astype(np.uint8)
    for _ in range(int(rng.integers(6, 12))):
        at = tuple(int(v) for v in rng.integers(0, SIZE * 16, 2))
        cv2.circle(picture, at, int(rng.integers(24, 56)), (196, 232, 244), 1, cv2.LINE_AA, 4)
    return picture, 0.0


def _table(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    walls = ((236, 226, 208), (214, 226, 236), (228, 236, 220), (240, 222, 222), (226, 226, 230))
    wall = walls[int(rng.integers(len(walls)))]
    picture, horizon = _ground((wall, wall), ((176, 118, 70), (140, 88, 50)))(rng)
    edge = round(SIZE * horizon)
    picture[edge : edge + 2] = (108, 66, 38)
    for row in np.linspace(edge, SIZE, 4)[1:-1].round().astype(int):
        picture[row] = picture[row] * 0.86
    return picture, horizon


PLACES: dict[str, tuple[Painter, tuple[str, ...]]] = {
    "table": (_table, ("on a table", "on a wooden table", "on the table", "standing on a table")),
    "grass": (
        _ground(((120, 186, 238), (196, 226, 246)), ((110, 188, 84), (72, 150, 62))),
        ("on grass", "on the grass", "in a meadow", "in a field", "on a lawn", "in the garden"),
    ),
    "sand": (
        _ground(((110, 190, 240), (190, 228, 246)), ((240, 214, 150), (226, 190, 120))),
        ("on sand", "on the beach", "in the desert", "on a beach"),
    ),
    "snow": (
        _ground(((150, 186, 220), (204, 222, 238)), ((246, 250, 254), (224, 234, 244))),
        ("in the snow", "on snow", "in winter"),
    ),
    "sky": (_sky, ("in the sky", "in a blue sky", "among clouds", "in the clouds")),
    "space": (_space, ("in space", "in outer space", "among the stars", "in the night sky")),
    "water": (_water, ("under water", "in the sea", "in the water", "in the ocean")),
}
"""A painter of each place, and how captions say that something is there."""


def backdrops() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """All backgrounds.

    Returns:
        Pixels, uint8 `(N, 128, 128, 3)`; where the ground begins as a share of the height, `(N,)`, 0 where there is
        none; and a key of `BACKGROUNDS` or of `PLACES` for each.
    """
    pixels = [np.broadcast_to(np.array(rgb, np.uint8), (SIZE, SIZE, 3)) for rgb in BACKGROUNDS.values()]
    horizons, places = [0.0] * len(pixels), list(BACKGROUNDS)
    for number, (place, (paint, _)) in enumerate(PLACES.items()):
        for variant in range(VARIANTS):
            picture, horizon = paint(np.random.default_rng([4, number, variant]))
            pixels.append(np.asarray(picture).clip(0, 255).astype(np.uint8))
            horizons.append(horizon)
            places.append(place)
    return np.stack(pixels), np.array(horizons), places
