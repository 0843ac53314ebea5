"""Inpainting (ControlNet 1.1): the condition is the image in [0, 1], and -1 in the pixels to inpaint."""

from __future__ import annotations

from tether.kinds.kind import Kind
from tether.kinds.measures import DETAIL

__all__ = ["KIND"]

KIND = Kind(
    "inpaint",
    "the image, -1 in the pixels to inpaint",
    value_range=(-1.0, 1.0),
    is_image=True,
    needs_mask=True,
    measures=DETAIL,
    names=r"inpaint(ing)?",
)
