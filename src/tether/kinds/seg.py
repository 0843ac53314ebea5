"""Segmentation: one color a class, so resizing must not blend colors. Maps are given ready-made."""

from __future__ import annotations

from tether.kinds.kind import Kind
from tether.kinds.measures import CLASSES

__all__ = ["KIND"]

KIND = Kind(
    "seg",
    "segmentation, one color a class",
    resize="nearest",
    measures=CLASSES,
    names=r"seg(mentation)?|ade20k",
)
