"""Line art, white on black. Maps are given ready-made."""

from __future__ import annotations

from tether.kinds.kind import Kind
from tether.kinds.measures import SOFT_LINES

__all__ = ["KIND"]

KIND = Kind(
    "lineart",
    "white line art on black",
    resize="lines",
    measures=SOFT_LINES,
    names=r"lineart",
)
