"""Depth maps: near is bright. Maps are given ready-made."""

from __future__ import annotations

from tether.kinds.kind import Kind
from tether.kinds.measures import DEPTH

__all__ = ["KIND"]

KIND = Kind(
    "depth",
    "depth, near is bright",
    measures=DEPTH,
    names=r"depth|midas|zoe",
)
