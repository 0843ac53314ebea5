"""Straight lines (M-LSD, 2106.00186), white on black. Maps are given ready-made."""

from __future__ import annotations

from tether.kinds.kind import Kind

__all__ = ["KIND"]

KIND = Kind(
    "mlsd",
    "straight white lines on black",
    resize="lines",
    names=r"mlsd|hough",
)
