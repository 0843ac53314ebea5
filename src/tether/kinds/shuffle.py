"""Shuffled content (ControlNet 1.1): only its colors and parts count, not where they are. Maps are given ready-made."""

from __future__ import annotations

from tether.kinds.kind import Kind

__all__ = ["KIND"]

KIND = Kind(
    "shuffle",
    "an image with its content shuffled",
    pools_globally=True,
    names=r"shuffle",
)
