"""Key points of bodies or hands in colors that are not known, which may tell left from right."""

from __future__ import annotations

from tether.kinds.kind import Kind

__all__ = ["KIND"]

KIND = Kind(
    "keypoints",
    "key points in any colors",
    resize="lines",
    flip=None,
    names=r"hands?|key ?points?",
)
