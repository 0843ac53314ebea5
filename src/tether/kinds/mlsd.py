"""Straight lines (M-LSD, 2106.00186), white on black. Maps are given ready-made."""

from __future__ import annotations

from tether.kinds.kind import Kind
from tether.kinds.measures import LINES

__all__ = ["KIND"]

KIND = Kind(
    "mlsd",
    "straight white lines on black",
    resize="lines",
    measures=LINES,
    names=r"mlsd|hough",
)
