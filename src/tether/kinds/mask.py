"""Mask of the main object, white on black, gray on soft borders: by U²-Net small (arXiv:2005.09007), shipped.

A mask says where `--mask` or a control's mask acts; it is also the map of cutout controls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.kinds.kind import Annotator, Kind
from tether.kinds.measures import OBJECT

if TYPE_CHECKING:
    import numpy as np

__all__ = ["KIND", "detect"]


def detect(pixels: np.ndarray) -> np.ndarray:
    """uint8 `(H, W, 3)` RGB -> mask, uint8 `(H, W, 3)`; black when nothing stands out."""
    from tether.detectors.cutout import object_mask

    return object_mask(pixels)[..., None].repeat(3, axis=2)


KIND = Kind(
    "mask",
    "mask of the main object",
    annotators={"u2net": Annotator(detect)},
    measures=OBJECT,
    names=r"mask|matting|cutout",
    aliases=("cutout",),
)
