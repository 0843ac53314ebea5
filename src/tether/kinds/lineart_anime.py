"""Line art of anime, white on black: the annotators of `tether.kinds.lineart`."""

from __future__ import annotations

from tether.kinds.kind import Kind
from tether.kinds.lineart import ANNOTATORS
from tether.kinds.measures import SOFT_LINES

__all__ = ["KIND"]

KIND = Kind(
    "lineart-anime",
    "white line art of anime on black",
    annotators=ANNOTATORS,
    resize="lines",
    measures=SOFT_LINES,
    names=r"s2lineart|lineart[ _-]anime|anime[ _-]lineart",
)
