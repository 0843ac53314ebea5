"""Tile: the condition is the image itself, to which a control adds detail."""

from __future__ import annotations

from tether.kinds.kind import Kind

__all__ = ["KIND"]

KIND = Kind(
    "tile",
    "the image itself, to add detail to",
    is_image=True,
    names=r"tile",
)
