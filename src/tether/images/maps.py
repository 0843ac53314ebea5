"""Condition maps of any size -> of the size that is drawn, by what their colors show.

| colors of the map                  | resized                                                                       |
|------------------------------------|-------------------------------------------------------------------------------|
| black and white, also after JPEG   | smoothly, then black and white again; lines of 1 pixel stay 1 pixel wide      |
| few, flat: classes, poses          | by the nearest pixel, which makes no new colors; thin strokes on black stay   |
| all else: depth, drawings, photos  | smoothly, as photographs are                                                  |
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from tether.images.fit import FitRule, fit, inner_size
from tether.images.lossy import as_black_and_white
from tether.images.read import Background, open_image, to_rgb, working_size

__all__ = ["fit_condition", "is_flat", "open_map"]

MOST_COLORS = 200
"""A map with more colors is not one of classes or limbs; ADE20K has 150 classes."""
MOST_GRAYS = 32
"""The same for gray levels, which depth has too."""
MOST_SAMPLES = 8
"""A pixel of a reduced map looks at most at so many source pixels a side for a stroke."""


@dataclass(frozen=True)
class _Scaling:
    """Where a map of one size lies at another: x' = (x + 0.5) * scale + offset - 0.5, for x and y."""

    scale: tuple[float, float]
    offset: tuple[float, float]

    @staticmethod
    def of(image: Image.Image, width: int, height: int, rule: FitRule) -> _Scaling:
        """That of `fit`."""
        if rule == "pad":
            inner = inner_size(image, width, height)
            scale = inner[0] / image.width, inner[1] / image.height
            return _Scaling(scale, ((width - inner[0]) // 2, (height - inner[1]) // 2))
        scale = width / image.width, height / image.height
        if rule == "crop":
            scale = (max(scale), max(scale))
        return _Scaling(scale, ((width - image.width * scale[0]) / 2, (height - image.height * scale[1]) / 2))


def fit_condition(image: Image.Image, width: int, height: int, rule: FitRule = "crop") -> Image.Image:
    """As `fit`, for condition maps, RGB: transparency and border are black, and the colors decide how it is resized.

    Args:
        image: the map, any PIL image.
        width, height: in pixels.
        rule: "stretch", "crop" or "pad".

    Raises:
        TetherError: for an unknown rule.
    """
    image = to_rgb(image, "black")
    if image.size == (width, height):
        return fit(image, width, height, rule)
    image = as_black_and_white(image) or image
    flat = is_flat(image)
    lines = not flat and _is_black_and_white(image)
    fitted = fit(image, width, height, rule, pad_color=(0, 0, 0), nearest=flat, whole=lines)
    scaling = _Scaling.of(image, width, height, rule)
    if flat:
        return _with_strokes(image, fitted, rule) if min(scaling.scale) < 1 else fitted
    if not lines:
        return fitted
    if max(scaling.scale) <= 1:
        return _black_and_white(fitted, _least(image, width, height, rule))
    return _enlarged_lines(image, (width, height), rule, scaling)


def open_map(source: Path | str | IO[bytes], *, background: Background | None = None) -> Image.Image:
    """Reads a condition map as `open_image` does; but one of few colors that is larger than 8,192 pixels a side is
    reduced as `fit_condition` does, by the nearest pixel or as lines, and if it is transparent by the nearest pixel.
    An opaque gray of 16 bits stays one, of mode "I;16".

    Raises:
        TetherError: as `open_image`.
    """
    image = open_image(source, background=background, whole=_has_few_colors, deep=True)
    size = working_size(image.size)
    if image.size == size:
        return image
    return fit_condition(image, *size, "stretch") if image.mode == "RGB" else fit(image, *size, "stretch", nearest=True)


def _has_few_colors(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "P", "LA", "RGB", "RGBA") and image.getcolors(MOST_COLORS) is not None


def is_flat(image: Image.Image) -> bool:
    """Whether an RGB map has few colors that cover areas, such as classes or limbs; black and white is no such map.

    Grays between two others may be the smooth edges of lines, which cover no area: at least half of the levels must
    have a pixel whose neighbors all have the same level.
    """
    colors = image.getcolors(MOST_COLORS)
    if colors is None or _is_black_and_white(image):
        return False
    if np.ptp([color for _, color in colors], axis=1).any():  # not all of them are gray
        return True
    return len(colors) <= MOST_GRAYS and 2 * len(_levels_with_area(np.asarray(image)[..., 0])) >= len(colors)


def _levels_with_area(gray: np.ndarray) -> np.ndarray:
    """The levels of `(H, W)` that fill a square of 3 x 3 pixels somewhere."""
    inner = gray[1:-1, 1:-1]
    same = np.ones(inner.shape, bool)
    for y in range(3):
        for x in range(3):
            same &= gray[y : y + inner.shape[0], x : x + inner.shape[1]] == inner
    return np.unique(inner[same])


def _is_black_and_white(image: Image.Image) -> bool:
    red, green, blue = image.split()
    return sum(red.histogram()[1:255]) == 0 and red.tobytes() == green.tobytes() == blue.tobytes()


def _least(image: Image.Image, width: int, height: int, rule: FitRule) -> float:
    """The level from which on a pixel of a reduced map is white.

    Reduced by a factor f, a line of one pixel keeps 1/f of its brightness: half of that.
    """
    scales = width / image.width, height / image.height
    return 127.5 * min(1.0, max(scales) if rule == "crop" else min(scales))


def _black_and_white(fitted: Image.Image, least: float) -> Image.Image:
    """RGB, white from a level on."""
    return fitted.convert("L").point([255 if level >= least else 0 for level in range(256)]).convert("RGB")


def _with_strokes(image: Image.Image, fitted: Image.Image, rule: FitRule) -> Image.Image:
    """A flat map that was reduced by the nearest pixel, with the strokes on black that it skipped.

    Args:
        image: the map.
        fitted: the same, reduced.
        rule: how it was fitted.
    """
    if max(image.getcolors(MOST_COLORS) or [(0, (1, 1, 1))])[1] != (0, 0, 0):
        return fitted
    size = fitted.size
    drawn = Image.fromarray(np.asarray(image).max(axis=2)).point([0] + [255] * 255)
    reduced = fit(drawn, *size, rule, pad_color=(0, 0, 0), whole=True)
    wanted = np.asarray(_black_and_white(reduced, _least(image, *size, rule)))[..., 0]
    result = np.array(fitted)
    for x, y in _places(min(MOST_SAMPLES, max(2, round(max(image.width / size[0], image.height / size[1]))))):
        missing = (wanted > 0) & ~result.any(axis=2)
        if not missing.any():
            break
        shifted = image.crop((x, y, x + image.width, y + image.height))  # black outside of the map
        result[missing] = np.asarray(fit(shifted, *size, rule, pad_color=(0, 0, 0), nearest=True))[missing]
    return Image.fromarray(result)


def _places(reach: int) -> list[tuple[int, int]]:
    """Steps (x, y) to the source pixels around the nearest one, closest to the middle first; the middle is before it if
    `reach`, the number of source pixels a side, is even."""
    middle = 0.5 if reach % 2 == 0 else 0.0
    steps = range(-(reach // 2) - 1, reach - reach // 2 + 1)
    return sorted(((x, y) for x in steps for y in steps), key=lambda at: (at[0] + middle) ** 2 + (at[1] + middle) ** 2)


def _enlarged_lines(image: Image.Image, size: tuple[int, int], rule: FitRule, scaling: _Scaling) -> Image.Image:
    """A map of black and white, enlarged: areas grow with it, lines of 1 pixel are drawn again with 1 pixel."""
    white = np.asarray(image)[..., 0] > 0
    thick = _thick(white)
    areas = Image.fromarray(thick.astype(np.uint8) * 255)
    grown = _black_and_white(fit(areas, *size, rule, pad_color=(0, 0, 0)), _least(image, *size, rule))
    result = np.array(grown)
    result[_lines(white, white & ~thick, size, scaling)] = 255
    return Image.fromarray(result)


def _thick(white: np.ndarray) -> np.ndarray:
    """The pixels of `(H, W)` that are part of a white square of 2 x 2."""
    padded = np.pad(white, 1)
    squares = padded[:-1, :-1] & padded[:-1, 1:] & padded[1:, :-1] & padded[1:, 1:]
    return squares[:-1, :-1] | squares[:-1, 1:] | squares[1:, :-1] | squares[1:, 1:]


def _lines(white: np.ndarray, thin: np.ndarray, size: tuple[int, int], scaling: _Scaling) -> np.ndarray:
    """Lines of 1 pixel through the middles of thin pixels and their white neighbors, bool of the new size.

    Args:
        white: `(H, W)`.
        thin: `(H, W)`, the white pixels that lie on lines of 1 pixel.
        size: the new width and height.
        scaling: the map at that size.
    """
    starts, ends = _links(white, thin)
    steps = int(np.ceil(max(scaling.scale))) + 1
    share = np.linspace(0, 1, max(steps, 2))[:, None, None]
    points = (starts * (1 - share) + ends * share).reshape(-1, 2)  # (y, x)
    scale, offset = np.array(scaling.scale[::-1]), np.array(scaling.offset[::-1])
    places = np.floor((points + 0.5) * scale + offset).astype(np.int64)
    inside = ((places >= 0) & (places < (size[1], size[0]))).all(axis=1)
    result = np.zeros((size[1], size[0]), bool)
    result[tuple(places[inside].T)] = True
    return result


def _links(white: np.ndarray, thin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of neighbors to be joined, each `(N, 2)` as (y, x); a thin pixel without a neighbor is its own.

    Diagonal neighbors are joined unless a pixel beside both joins them. Lines go on across the border.
    """
    height, width = white.shape
    starts, ends = [np.argwhere(thin)], [np.argwhere(thin)]
    padded_white, padded_thin = np.pad(white, 1), np.pad(thin, 1)

    def moved(padded: np.ndarray, y: int, x: int) -> np.ndarray:
        return padded[1 + y : 1 + y + height, 1 + x : 1 + x + width]

    for y, x in ((0, 1), (1, 0), (1, 1), (1, -1)):
        joined = white & moved(padded_white, y, x) & (thin | moved(padded_thin, y, x))
        if y and x:
            joined &= ~moved(padded_white, 0, x) & ~moved(padded_white, y, 0)
        starts.append(np.argwhere(joined))
        ends.append(starts[-1] + (y, x))
    for axis, last in ((0, 0), (0, height - 1), (1, 0), (1, width - 1)):
        edge = np.take(thin, last, axis=axis)
        beside = np.pad(np.take(white, last, axis=axis), 1)
        at = np.flatnonzero(edge & ~beside[:-2] & ~beside[2:])
        places = np.stack([np.full(len(at), last), at] if axis == 0 else [at, np.full(len(at), last)], axis=1)
        starts.append(places)
        ends.append(places + ((-1 if last == 0 else 1) * np.eye(2, dtype=int)[axis]))
    return np.concatenate(starts), np.concatenate(ends)
