"""Which captions a mirrored image would contradict: those that say left or right, or name a thing with a handedness."""

from __future__ import annotations

import re

__all__ = ["names_a_side"]

SIDED = re.compile(
    r"\b((left|right)(most|wards?)?|(anti|counter)?-?clockwise|waxing|waning|(first|last) quarter)\b", re.IGNORECASE
)


def names_a_side(words: str) -> bool:
    """Whether an image of these words must not be mirrored: "a left arrow", "the waxing moon"."""
    return SIDED.search(words) is not None
