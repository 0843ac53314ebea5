"""Whether a condition leaves the picture open, told by drawing it: a few steps of several seeds.

What is compared, and what it says, stands in `tether.kinds.openness`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tether.kinds.openness import agreement
from tether.sampling.request import ControlRequest, Request

if TYPE_CHECKING:
    from PIL import Image

    from tether.sampling.session import Session

__all__ = ["SEEDS", "STEPS", "quick_agreement"]

SEEDS, STEPS = (7_000_001, 7_000_002, 7_000_003), 4


def quick_agreement(
    session: Session, kind: str, condition: Image.Image, prompt: str = "", size: tuple[int, int] | None = None
) -> float:
    """How well three quick pictures of a condition agree, drawn with the control of its kind that ships.

    Args:
        session: draws them.
        kind: of the condition.
        condition: its map.
        prompt: what is to be drawn.
        size: width and height that are drawn; by default the base's own.
    """
    control = ControlRequest(ref=kind, condition=condition)
    request = Request(prompt=prompt, controls=[control], seed=list(SEEDS), count=len(SEEDS), steps=STEPS, size=size)
    return agreement([np.asarray(one.image) for one in session.run(request)])
