"""Depth maps: near is bright, far is black, each map over its own range.

16-bit gray PNGs keep their 16 bits up to the control. "transformers" runs any depth estimation model of transformers
(Depth Anything, DPT, GLPN, ZoeDepth, ...): `tether detectors use depth NAME`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.kinds.kind import Annotator, Kind
from tether.kinds.measures import DEPTH
from tether.kinds.weights import hash_of, needs

if TYPE_CHECKING:
    import numpy as np

__all__ = ["KIND", "detect"]


def detect(pixels: np.ndarray) -> np.ndarray:
    """Depth of uint8 `(H, W, 3)` RGB: uint16 `(H, W)`, near is 65535; 0 for an image without depth.

    Raises:
        TetherError: when there is no model.
    """
    import numpy as np

    from tether.detectors.depth import nearness

    return np.round(nearness(pixels) * 65535).astype(np.uint16)


KIND = Kind(
    "depth",
    "depth, near is bright",
    annotators={"transformers": Annotator(detect, ready=needs("depth"), weights=hash_of("depth"))},
    measures=DEPTH,
    is_deep=True,
    names=r"depth|midas|zoe",
)
