"""Twenty doodles by a shaky hand: thick and thin, dark and light, broken and closed, with a caption beside each.

python recipes/doodles.py out/doodles
tether generate --condition canny=out/doodles --out out/drawn
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["DOODLES", "doodle"]

SIDE, SCALE = 512, 4
"""Pixels of a doodle, and points drawn a pixel before it is reduced."""
Stroke = list[tuple[float, float]]
"""Points in the unit square, y down."""


def arc(x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360) -> Stroke:
    """Part of an ellipse, in degrees clockwise from the right."""
    angles = np.radians(np.linspace(start, end, 60))
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def line(*points: float) -> Stroke:
    """A polyline from x, y, x, y, ..."""
    return list(zip(points[::2], points[1::2], strict=True))


def star(x: float, y: float, radius: float, points: int = 5) -> Stroke:
    """A closed star."""
    angles = [math.pi * k / points - math.pi / 2 for k in range(2 * points + 1)]
    radii = [radius if k % 2 == 0 else radius * 0.42 for k in range(2 * points + 1)]
    return [(x + r * math.cos(a), y + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def heart(x: float, y: float, size: float) -> Stroke:
    """A closed heart."""
    angles = np.linspace(0, 2 * math.pi, 80)
    return [
        (
            x + size * 16 * math.sin(t) ** 3 / 17,
            y - size * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 17,
        )
        for t in angles
    ]


FACE = [arc(0.5, 0.52, 0.26, 0.24), arc(0.41, 0.47, 0.03, 0.04), arc(0.59, 0.47, 0.03, 0.04)]
DOODLES: dict[str, list[Stroke]] = {
    "a red apple": [
        [*arc(0.38, 0.56, 0.2, 0.26, 90, 290), *arc(0.62, 0.56, 0.2, 0.26, 250, 450)],
        line(0.5, 0.33, 0.53, 0.17),
        arc(0.61, 0.2, 0.08, 0.04),
    ],
    "a house": [
        line(0.25, 0.45, 0.25, 0.82, 0.75, 0.82, 0.75, 0.45),
        line(0.18, 0.48, 0.5, 0.18, 0.82, 0.48, 0.18, 0.48),
        line(0.44, 0.82, 0.44, 0.62, 0.56, 0.62, 0.56, 0.82),
        line(0.3, 0.54, 0.4, 0.54, 0.4, 0.64, 0.3, 0.64, 0.3, 0.54),
    ],
    "a cat face": [
        *FACE,
        line(0.28, 0.4, 0.28, 0.16, 0.43, 0.29),
        line(0.57, 0.29, 0.72, 0.16, 0.72, 0.4),
        line(0.47, 0.57, 0.53, 0.57, 0.5, 0.61, 0.47, 0.57),
        line(0.36, 0.6, 0.16, 0.56),
        line(0.64, 0.6, 0.84, 0.56),
    ],
    "a fish": [
        arc(0.44, 0.5, 0.27, 0.17),
        line(0.7, 0.5, 0.87, 0.34, 0.84, 0.5, 0.87, 0.66, 0.7, 0.5),
        arc(0.29, 0.46, 0.02, 0.02),
        arc(0.34, 0.5, 0.08, 0.13, -60, 60),
    ],
    "a star": [star(0.5, 0.52, 0.38)],
    "a heart": [heart(0.5, 0.5, 0.36)],
    "a cup": [
        line(0.25, 0.35, 0.3, 0.78, 0.6, 0.78, 0.65, 0.35),
        arc(0.45, 0.35, 0.2, 0.05),
        arc(0.66, 0.52, 0.13, 0.12, -80, 95),
    ],
    "a car": [
        line(0.1, 0.66, 0.1, 0.5, 0.27, 0.47, 0.36, 0.32, 0.62, 0.32, 0.74, 0.47, 0.9, 0.51, 0.9, 0.66, 0.1, 0.66),
        arc(0.28, 0.67, 0.08, 0.08),
        arc(0.72, 0.67, 0.08, 0.08),
        line(0.48, 0.33, 0.48, 0.47, 0.3, 0.47),
    ],
    "a tree": [
        [
            *arc(0.35, 0.4, 0.17, 0.16, 90, 270),
            *arc(0.5, 0.25, 0.17, 0.14, 180, 360),
            *arc(0.65, 0.4, 0.17, 0.16, -90, 90),
        ],
        line(0.35, 0.56, 0.65, 0.56),
        line(0.45, 0.56, 0.43, 0.86, 0.57, 0.86, 0.55, 0.56),
    ],
    "a flower": [
        arc(0.5, 0.36, 0.07, 0.07),
        *[arc(0.5 + 0.15 * math.cos(a), 0.36 + 0.15 * math.sin(a), 0.08, 0.08) for a in np.radians(range(0, 360, 60))],
        line(0.5, 0.59, 0.5, 0.9),
        arc(0.58, 0.76, 0.09, 0.04),
    ],
    "a mushroom": [
        arc(0.5, 0.47, 0.32, 0.28, 180, 360),
        line(0.18, 0.47, 0.82, 0.47),
        line(0.42, 0.47, 0.4, 0.8, 0.6, 0.8, 0.58, 0.47),
        arc(0.4, 0.34, 0.05, 0.05),
        arc(0.6, 0.32, 0.06, 0.05),
    ],
    "an umbrella": [
        arc(0.5, 0.45, 0.36, 0.28, 180, 360),
        [
            *arc(0.26, 0.45, 0.12, 0.05, 180, 360),
            *arc(0.5, 0.45, 0.12, 0.05, 180, 360),
            *arc(0.74, 0.45, 0.12, 0.05, 180, 360),
        ],
        [*line(0.5, 0.17, 0.5, 0.78), *arc(0.56, 0.78, 0.06, 0.07, 180, 0)],
    ],
    "a crescent moon": [
        [*arc(0.5, 0.5, 0.34, 0.36, 60, 300), *arc(0.62, 0.5, 0.24, 0.31, 260, 100), *arc(0.5, 0.5, 0.34, 0.36, 60, 62)]
    ],
    "a balloon": [
        arc(0.5, 0.38, 0.22, 0.27),
        line(0.5, 0.65, 0.46, 0.7, 0.54, 0.7, 0.5, 0.65),
        line(0.5, 0.7, 0.47, 0.8, 0.52, 0.93),
    ],
    "an ice cream": [line(0.34, 0.46, 0.5, 0.9, 0.66, 0.46, 0.34, 0.46), arc(0.5, 0.34, 0.18, 0.17, 135, 405)],
    "a bell": [
        [*line(0.22, 0.7, 0.3, 0.6), *arc(0.5, 0.42, 0.2, 0.22, 180, 360), *line(0.7, 0.6, 0.78, 0.7, 0.22, 0.7)],
        arc(0.5, 0.76, 0.05, 0.05),
        arc(0.5, 0.17, 0.03, 0.03),
    ],
    "a butterfly": [
        arc(0.5, 0.5, 0.03, 0.2),
        *[arc(0.5 + side * 0.2, 0.38, 0.17, 0.16) for side in (-1, 1)],
        *[arc(0.5 + side * 0.16, 0.64, 0.12, 0.13) for side in (-1, 1)],
        line(0.49, 0.31, 0.42, 0.18),
        line(0.51, 0.31, 0.58, 0.18),
    ],
    "a sailboat": [
        line(0.15, 0.68, 0.26, 0.84, 0.74, 0.84, 0.85, 0.68, 0.15, 0.68),
        line(0.48, 0.68, 0.48, 0.14),
        line(0.48, 0.16, 0.78, 0.6, 0.48, 0.6),
        line(0.48, 0.24, 0.24, 0.6, 0.48, 0.6),
    ],
    "a rocket": [
        [*line(0.38, 0.72, 0.36, 0.4), *arc(0.5, 0.4, 0.14, 0.28, 180, 360), *line(0.62, 0.72, 0.38, 0.72)],
        arc(0.5, 0.4, 0.06, 0.06),
        line(0.37, 0.55, 0.24, 0.76, 0.38, 0.7),
        line(0.63, 0.55, 0.76, 0.76, 0.62, 0.7),
        line(0.44, 0.74, 0.5, 0.9, 0.56, 0.74),
    ],
    "a pear": [
        [
            *arc(0.5, 0.62, 0.23, 0.22, -40, 220),
            *arc(0.5, 0.34, 0.12, 0.13, 170, 370),
            *arc(0.5, 0.62, 0.23, 0.22, -40, -38),
        ],
        line(0.5, 0.21, 0.55, 0.1),
    ],
}
"""Caption -> strokes."""
STYLES = [
    (thick, ink, broken) for broken in (False, True) for ink in (20, 150) for thick in (3, 12)
]  # widths in pixels, levels of gray


def doodle(strokes: list[Stroke], rng: np.random.Generator, width: int, ink: int, broken: bool) -> Image.Image:
    """Strokes as a hand draws them that is not sure: bent, not quite closed, with a pen of varying pressure.

    Args:
        strokes: in the unit square.
        rng: the hand.
        width: of the pen in pixels.
        ink: its gray level, on white.
        broken: whether the pen leaves the paper here and there.
    """
    image = Image.new("L", (SIDE, SIDE), 255)
    draw = ImageDraw.Draw(image)
    tilt = rng.normal(0, 0.05)
    for stroke in strokes:
        for piece in _pieces(_shaken(stroke, rng, tilt), rng, broken):
            for (x, y), pressure in zip(piece, rng.uniform(0.8, 1.2, len(piece)), strict=True):
                radius = width * pressure / 2
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
    return image.convert("RGB")


def _shaken(stroke: Stroke, rng: np.random.Generator, tilt: float) -> np.ndarray:
    """Points `(N, 2)` in pixels, one apart, turned by a tilt and moved by slow noise."""
    points = (np.array(stroke) - 0.5) @ np.array([[math.cos(tilt), math.sin(tilt)], [-math.sin(tilt), math.cos(tilt)]])
    points = (points + 0.5 + rng.normal(0, 0.008, 2)) * SIDE
    lengths = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    at = np.arange(0, lengths[-1], 1.0)
    points = np.stack([np.interp(at, lengths, points[:, k]) for k in range(2)], axis=1)
    for period, size in ((90, 4.0), (25, 1.5)):
        knots = rng.normal(0, size, (int(lengths[-1] / period) + 3, 2))
        places = np.arange(len(knots)) * period
        points += np.stack([np.interp(at, places, knots[:, k]) for k in range(2)], axis=1)
    return points


def _pieces(points: np.ndarray, rng: np.random.Generator, broken: bool) -> Iterator[np.ndarray]:
    """The parts of a stroke between which the pen leaves the paper."""
    if not broken:
        yield points
        return
    at = 0
    while at < len(points):
        drawn = int(rng.uniform(60, 160))
        yield points[at : at + drawn]
        at += drawn + int(rng.uniform(8, 24))


def main(out: Path) -> None:
    """Writes the doodles and their captions."""
    out.mkdir(parents=True, exist_ok=True)
    for number, (caption, strokes) in enumerate(DOODLES.items()):
        width, ink, broken = STYLES[number % len(STYLES)]
        name = caption.split(maxsplit=1)[1].replace(" ", "-")
        image = doodle(strokes, np.random.default_rng(number), width, ink, broken)
        image.save(out / f"{name}.png")
        (out / f"{name}.txt").write_text(f"{caption}, 3d emoji\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
