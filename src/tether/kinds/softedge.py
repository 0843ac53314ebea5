"""Soft edges (HED 1504.06375, PiDiNet 2108.07009), gray on black. Maps are given ready-made."""

from __future__ import annotations

from tether.kinds.kind import Kind
from tether.kinds.measures import SOFT_LINES

__all__ = ["KIND"]

KIND = Kind(
    "softedge",
    "soft gray edges on black",
    resize="lines",
    measures=SOFT_LINES,
    names=r"softedge|hed|pidi(net)?",
)
