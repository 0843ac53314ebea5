"""Does a condition map of lines leave the picture open, so that seeds draw different things?

Told from the map alone, in milliseconds, before anything is drawn. What counts is how far connected lines run:

    structure = share of the cells of a grid that lines run through which reach over a quarter of the shorter side
    open      = structure < LIMITS[kind], for a request with a prompt or without one

Cells are 1/16 of the shorter side. Lines that are broken into dashes, specks and noise have no structure: the controls
that ship do not take them for lines either. The limits are fitted as the study "ambiguity" fits them, which measures
how well pictures of different seeds agree: of 8 conditions of names that training sees, each in 13 ways from whole to
blank, 95% of those below the limit were open with the weights before the last training of 2026-11-27. With those that
ship, which follow dashes and noise more closely, it is less: on 12 held-out conditions the warning has precision 0.55
and recall 1.00 without a prompt, 0.63 and 0.91 with one, and is never given for a whole map. Kinds without a limit are
not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tether.kinds.table import find_kind, kinds

if TYPE_CHECKING:
    import numpy as np

__all__ = ["LIMITS", "Limits", "is_open", "nothing_in", "remedy", "structure"]

CELLS, REACH = 16, 0.25
"""Cells along the shorter side, and the share of it that a line must reach over."""
SIDE = 128
"""Larger maps are reduced to about this shorter side: every block is as light as its lightest pixel."""
LIGHT = 64
"""Levels of gray from which a pixel belongs to a line."""


@dataclass(frozen=True)
class Limits:
    """The structure below which maps of a kind leave the picture open.

    Attributes:
        without_prompt: of requests with the empty prompt.
        with_prompt: of requests that say what is to be drawn.
    """

    without_prompt: float
    with_prompt: float


LIMITS: Mapping[str, Limits] = {"canny": Limits(0.05, 0.04)}


def nothing_in(kind: str | None, pixels: np.ndarray) -> str:
    """Why a map says nothing: "black", or "of one color"; "" if it says something.

    A map of a known kind says nothing when it has one color everywhere, except where the color itself says something:
    images themselves, and classes. All others say nothing when they are black.

    Args:
        kind: of the map.
        pixels: `(H, W, C)`, of any range in which black is 0.
    """
    if not pixels.any():
        return "black"
    counts = kind in kinds() and not find_kind(kind).is_image and find_kind(kind).resize != "nearest"
    return "of one color" if counts and bool((pixels == pixels[:1, :1]).all()) else ""


def structure(pixels: np.ndarray) -> float:
    """The structure of a map of light lines on black.

    Args:
        pixels: uint8 `(H, W, 3)`.

    Returns:
        From 0, no connected lines, to 1.
    """
    import cv2
    import numpy as np

    light = pixels.max(axis=2)
    shorter = min(light.shape)
    by = max(1, shorter // SIDE)
    height, width = (side // by for side in light.shape)
    light = light[: height * by, : width * by].reshape(height, by, width, by).max(axis=(1, 3))
    lines = (light >= LIGHT).astype(np.uint8)
    shorter = min(height, width)
    _, labels, about, _ = cv2.connectedComponentsWithStats(lines, connectivity=8)
    reach = np.maximum(about[:, cv2.CC_STAT_WIDTH], about[:, cv2.CC_STAT_HEIGHT])
    far = reach >= REACH * shorter
    far[0] = False  # label 0 is the background
    y, x = np.nonzero(far[np.asarray(labels, np.int32)])
    cell = max(1, shorter // CELLS)
    touched = len(np.unique((y // cell) * width + x // cell))
    return touched / (-(-height // cell) * -(-width // cell))


def is_open(kind: str | None, pixels: np.ndarray, *, prompted: bool) -> bool | None:
    """Whether a map leaves the picture open; None for kinds that are not judged.

    Args:
        kind: of the map.
        pixels: uint8 `(H, W, 3)`, light lines on black.
        prompted: whether there is a prompt.
    """
    limits = LIMITS.get(kind or "")
    if limits is None:
        return None
    return structure(pixels) < (limits.with_prompt if prompted else limits.without_prompt)


def remedy(*, prompted: bool) -> str:
    """What settles an open picture, for people."""
    return "draw more of the outline, in unbroken lines" + ("" if prompted else ", and say in the prompt what it shows")
