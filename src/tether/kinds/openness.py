"""Does a condition map of lines leave the picture open, so that seeds draw different things?

Told from the map alone, in milliseconds, before anything is drawn. What counts is how far connected lines run:

    structure = share of the cells of a grid that lines run through which reach over a quarter of the shorter side
    it may be = structure < LIMITS[kind], for a request with a prompt or without one

Cells are 1/16 of the shorter side. Lines that are broken into dashes, specks and noise have no structure, and some of
them a control follows all the same: a map below the limit *may* leave the picture open. Whether it does is known once
pictures of several seeds are compared, and a few steps of each are enough:

    agreement = mean of the F1, at 2 px, of the Canny edges of each two pictures; 0 where one of them has none
    it is     = structure < LIMITS[kind], and agreement < AGREEMENT

The study "ambiguity" fits the limits on conditions that training sees, and measures both judgements on held-out ones.
Kinds without a limit are not judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tether.kinds.table import find_kind, kinds

if TYPE_CHECKING:
    import numpy as np

__all__ = ["AGREEMENT", "LIMITS", "Limits", "agreement", "is_open", "nothing_in", "remedy", "structure"]

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
AGREEMENT = 0.5
"""Pictures that agree less than this show that their condition leaves them open."""


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
    """Whether a map may leave the picture open; None for kinds that are not judged.

    Args:
        kind: of the map.
        pixels: uint8 `(H, W, 3)`, light lines on black.
        prompted: whether there is a prompt.
    """
    limits = LIMITS.get(kind or "")
    if limits is None:
        return None
    return structure(pixels) < (limits.with_prompt if prompted else limits.without_prompt)


def agreement(pictures: Sequence[np.ndarray]) -> float:
    """How much of what pictures show is the same in all, from 0 to 1.

    Args:
        pictures: uint8 `(H, W, 3)` each, two or more.
    """
    from itertools import combinations

    import numpy as np

    from tether.kinds.canny import edge_map
    from tether.kinds.edges import edge_f1

    edges = [edge_map(one) for one in pictures]
    pairs = [edge_f1(a, b) if a.any() and b.any() else 0.0 for a, b in combinations(edges, 2)]
    return float(np.mean(pairs))


def remedy(*, prompted: bool) -> str:
    """What settles an open picture, for people."""
    return "draw more of the outline, in unbroken lines" + ("" if prompted else ", and say in the prompt what it shows")
