"""Black lines on white, where a control expects white lines on black."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.kinds.table import find_kind, kinds

if TYPE_CHECKING:
    from PIL import Image

    from tether.kinds.kind import Kind

__all__ = ["from_paper", "has_white_lines", "inverted", "is_dark_on_light"]

_COLORED = 24
"""Levels between the channels of a pixel from which it is a color; lines on paper have few such pixels."""
_PAPER, _INK, _DARK = 200, 170, 100
"""Levels of gray: paper has at least, ink at most; a pencil may be light, ink up to the last level is dark."""
_LEAST_PAPER, _LEAST_INK = 0.6, 0.0005
"""Shares of the pixels. White lines on black cover far less than half of a map, and paper has some ink."""
_COLOR_KINDS = ("openpose", "keypoints")


def has_white_lines(kind: Kind) -> bool:
    """Whether the maps of a kind are white lines on black."""
    return kind.resize == "lines" and kind.name not in _COLOR_KINDS


def is_dark_on_light(image: Image.Image, kind: str | None) -> bool:
    """Whether a condition map of lines was drawn in black on white, or in black on nothing.

    Args:
        image: the map, any PIL image.
        kind: its kind; unknown kinds, and those whose maps have colors or are not lines, never are.
    """
    import numpy as np

    from tether.images import to_rgb

    if kind not in kinds() or not has_white_lines(find_kind(kind)):
        return False
    pixels = np.asarray(to_rgb(image, "white"), np.int16)
    colored = (pixels.max(axis=2) - pixels.min(axis=2) > _COLORED).mean()
    gray = pixels.mean(axis=2)
    paper, ink = (gray >= _PAPER).mean(), (gray <= _INK).mean()
    if colored > 0.02 or paper < _LEAST_PAPER or ink < _LEAST_INK:
        return False
    # White lines on nothing are white on white; only what is dark on white can be meant.
    return bool(paper > ink)


def from_paper(image: Image.Image) -> Image.Image:
    """The negative of a drawing on paper, RGB. Light ink becomes white lines too, and paper black."""
    import numpy as np
    from PIL import Image

    negative = inverted(image)
    levels = np.asarray(negative, np.float32)
    gray = levels.mean(axis=2)
    paper, ink = np.median(gray), np.quantile(gray, 1 - _LEAST_INK)
    if ink >= 255 - _DARK:
        return negative
    return Image.fromarray(((levels - paper) * (255 / (ink - paper))).clip(0, 255).round().astype(np.uint8))


def inverted(image: Image.Image) -> Image.Image:
    """The negative of a map, RGB; transparency is white before."""
    from PIL import ImageOps

    from tether.images import to_rgb

    return ImageOps.invert(to_rgb(image, "white"))
