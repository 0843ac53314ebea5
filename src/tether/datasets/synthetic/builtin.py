"""The sets that come with the package: `emoji3d` (1,079 drawings), `scenes` and `circles` (drawn on the fly).

Sample n of a set is a function of n and the image size alone.
"""

from __future__ import annotations

from tether.datasets.source import Source
from tether.datasets.synthetic.circles import Circles
from tether.datasets.synthetic.emoji3d import Emoji3D
from tether.datasets.synthetic.scenes.source import HELD_OUT_SCENES, Scenes
from tether.errors import TetherError

__all__ = ["BUILTIN", "builtin_source"]

BUILTIN = ("emoji3d", "scenes", "circles")
"""Names of the sets that come with the package."""

SCENES, CIRCLES = 5000, 5000
"""Samples by default."""


def builtin_source(name: str, size: int, count: int | None, held_out: bool = False) -> Source:
    """Opens one of the sets; see `tether.datasets.sources.open_source`.

    Args:
        name: one of `BUILTIN`.
        size: side of the images in pixels.
        count: how many; by default the set's own number.
        held_out: what no training sees, for measuring: `HELD_OUT_SCENES`, held-out names, circles of their own.

    Raises:
        TetherError: for a size below 8 pixels or a count below 1.
    """
    if size < 8 or (count is not None and count < 1):
        raise TetherError(f"{name} needs a size of at least 8 pixels and a count of at least 1, not {size} and {count}")
    if name == "emoji3d":
        return Emoji3D(size, count, held_out)
    if name == "scenes":
        return Scenes(size, count or (len(HELD_OUT_SCENES) if held_out else SCENES), held_out)
    return Circles(size, count or CIRCLES, held_out)
