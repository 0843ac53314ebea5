"""Line art of anime, white on black. Maps are given ready-made."""

from __future__ import annotations

from tether.kinds.kind import Kind

__all__ = ["KIND"]

KIND = Kind(
    "lineart-anime",
    "white line art of anime on black",
    resize="lines",
    names=r"s2lineart|lineart[ _-]anime|anime[ _-]lineart",
)
