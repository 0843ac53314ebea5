"""InstructPix2Pix (2211.09800): the condition is the image to edit."""

from __future__ import annotations

from tether.kinds.kind import Kind

__all__ = ["KIND"]

KIND = Kind(
    "ip2p",
    "the image to edit",
    is_image=True,
    names=r"ip2p|pix2pix",
)
