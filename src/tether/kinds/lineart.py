"""Line art, white on black. Maps are given ready-made."""

from __future__ import annotations

from tether.kinds.kind import Kind

__all__ = ["KIND"]

KIND = Kind(
    "lineart",
    "white line art on black",
    resize="lines",
    names=r"lineart",
)
