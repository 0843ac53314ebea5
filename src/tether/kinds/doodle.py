"""Doodles: what a person drew, in any ink on any paper, as white strokes on black.

    paper  = a surface of second degree, fitted to most of the pixels: it follows the shading of a photographed sheet
    ink    = max over channels |x - paper| > share of the strongest ink
    stroke = ink without specks; of what is filled, the outline

Whether ink is darker or lighter than its paper does not matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["doodle_map", "has_light_ink", "looks_drawn"]

SIDE, ROUNDS = 32, 5
"""Paper is fitted on an image of this side, in so many rounds."""
FAINTEST, NOISE = 20.0, 6.0
"""Ink differs from paper by so many levels, and so many times as much as paper differs from itself."""
SHARE = 0.28
"""And by this share of what the strongest ink does: what differs less is its soft edge, or shadow."""
SPECK = 5e-5
"""Ink of a smaller share of the pixels is dirt."""
GLANCE = 128
"""Longer side of the image on which it is seen whether ink is light."""
FILLED = 14
"""An area wider than the shorter side over this is filled, and no stroke."""
SHADED, UNEVEN = 6.0, 0.2
"""Deviation of levels in 5x5 pixels that no even color has, and the share of areas that may have it, at borders."""
LARGE = 1024
"""Shorter side above which areas are looked for on a reduced image."""
PAPER, EVEN = 0.6, 140
"""A drawing is paper in at least this share of its pixels, and its paper differs by at most so many levels."""
INK, BETWEEN = 0.001, 0.6
"""Least share of ink, and how many pixels may be neither paper nor ink for each that is ink."""


def doodle_map(pixels: np.ndarray, thickness: float = 3) -> np.ndarray:
    """Strokes of a doodle, uint8 `(H, W, 3)` RGB: uint8 `(H, W)`, 0 or 255; none of blank paper.

    Args:
        pixels: the doodle.
        thickness: no stroke is thinner than so many pixels.
    """
    import cv2
    import numpy as np

    from tether.kinds.scribble import without_specks

    away, _ = _ink(pixels)
    ink = away > _threshold(away)
    strokes = without_specks(ink, SPECK * ink.size)
    side = round(thickness)
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    filled = _filled(strokes, side)
    outline = cv2.morphologyEx(filled, cv2.MORPH_GRADIENT, _disc(3))
    thin = cv2.subtract(strokes, cv2.morphologyEx(strokes, cv2.MORPH_OPEN, pen))
    strokes[cv2.erode(filled, _disc(3)) > 0] = 0
    strokes = cv2.max(strokes, cv2.dilate(cv2.max(thin, cv2.min(outline, strokes)), pen))
    return strokes * np.uint8(255)


def looks_drawn(pixels: np.ndarray) -> bool:
    """Whether an image `(H, W, 3)` is a drawing: mostly even paper, some ink, and what it fills is even too."""
    import numpy as np

    away, paper = _ink(pixels)
    where = away > _threshold(away)
    ink = where.mean()
    clean = (away < FAINTEST / 2).mean()
    return bool(
        np.ptp(paper, axis=(0, 1)).max() <= EVEN
        and clean >= PAPER
        and ink >= INK
        and 1 - clean - ink <= BETWEEN * ink
        and not _shows_a_thing(pixels, where)
    )


def has_light_ink(pixels: np.ndarray) -> bool:
    """Whether the ink of a drawing is lighter than its paper, mostly and in every channel: chalk on a blackboard."""
    import cv2
    import numpy as np

    image = np.ascontiguousarray(pixels)
    side = max(image.shape[:2])
    if side > GLANCE:
        new = max(1, image.shape[1] * GLANCE // side), max(1, image.shape[0] * GLANCE // side)
        image = cv2.resize(image, new, interpolation=cv2.INTER_AREA)
    away, paper = _ink(image)
    enlarged = cv2.resize(paper, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)
    darker = np.asarray(cv2.subtract(enlarged, image)).max(axis=2)
    ink = away > _threshold(away)
    return bool(ink.any() and (darker[ink] < FAINTEST / 2).mean() > 0.5)


def _shows_a_thing(pixels: np.ndarray, ink: np.ndarray) -> bool:
    """Whether most ink `(H, W)` is in areas that are not even: a thing that was photographed on black."""
    import cv2
    import numpy as np

    filled = cv2.erode(_filled(ink.astype(np.uint8), 1), _disc(3)) > 0
    if filled.sum() < 0.5 * ink.sum():
        return False
    image = np.ascontiguousarray(pixels).astype(np.float32)
    mean, square = cv2.blur(image, (5, 5)), cv2.blur(image * image, (5, 5))
    deviation = np.sqrt(np.maximum(square - mean * mean, 0)).max(axis=2)
    return bool((deviation[filled] > SHADED).mean() > UNEVEN)


def _filled(strokes: np.ndarray, thickness: int) -> np.ndarray:
    """Of strokes `(H, W)`, 0 or 1, the areas: what a disc of the shorter side over `FILLED` fits into. Of a large image
    on a reduced one, as the time grows with the square of the disc."""
    import cv2
    import numpy as np

    times = -(-min(strokes.shape) // LARGE)
    height, width = strokes.shape
    small = strokes
    if times > 1:
        small = cv2.resize(strokes, (-(-width // times), -(-height // times)), interpolation=cv2.INTER_NEAREST)
    wide = _disc(max(-(-thickness // times) + 1, min(small.shape) // FILLED) | 1)
    found = cv2.morphologyEx(small, cv2.MORPH_OPEN, wide)
    return np.asarray(cv2.resize(found, (width, height), interpolation=cv2.INTER_NEAREST))


def _ink(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far each pixel is from its paper, uint8 `(H, W)`, and the paper, `(h, w, 3)` of a smaller size."""
    import cv2
    import numpy as np

    image = np.ascontiguousarray(pixels)
    height, width = image.shape[:2]
    small = cv2.resize(image, (min(SIDE, width), min(SIDE, height)), interpolation=cv2.INTER_AREA)
    paper = _surface(small.astype(np.float32)).clip(0, 255).astype(np.uint8)
    enlarged = cv2.resize(paper, (width, height), interpolation=cv2.INTER_LINEAR)
    red, green, blue = cv2.split(cv2.absdiff(image, enlarged))
    return cv2.max(cv2.max(red, green), blue), paper


def _surface(values: np.ndarray) -> np.ndarray:
    """The surface of second degree through most of the pixels of `(h, w, 3)`, by trimmed least squares.

    It begins with the median color; each round keeps the half of the pixels that are nearest.
    """
    import numpy as np

    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in values.shape[:2])
    y, x = (each.ravel() for each in np.meshgrid(y, x, indexing="ij"))
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=1)
    points = values.reshape(-1, 3)
    found = np.broadcast_to(np.median(points, axis=0), points.shape)
    for _ in range(ROUNDS):
        away = abs(points - found).max(axis=1)
        kept = away <= np.median(away)
        known = terms[kept]
        found = terms @ np.linalg.solve(known.T @ known + np.eye(6) * 1e-3, known.T @ points[kept])
    return found.reshape(values.shape)


def _threshold(away: np.ndarray) -> float:
    """From which difference to the paper on a pixel is ink."""
    import cv2
    import numpy as np

    strongest = float(cv2.blur(away, (3, 3)).max())
    return max(FAINTEST, NOISE * float(np.median(away)), SHARE * strongest)


def _disc(side: int) -> np.ndarray:
    import cv2

    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
