"""Depth maps: near is bright. Maps are given ready-made."""

from __future__ import annotations

from tether.kinds.kind import Kind

__all__ = ["KIND"]

KIND = Kind(
    "depth",
    "depth, near is bright",
    names=r"depth|midas|zoe",
)
