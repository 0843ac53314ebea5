"""What an annotator lets people choose."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tether.errors import TetherError

__all__ = ["Option"]


@dataclass(frozen=True)
class Option:
    """A number with a default, a range (both ends included) and a line of help."""

    default: float
    least: float
    most: float
    help: str

    def check(self, name: str, value: float) -> None:
        """Raises a TetherError when `value` is no number in range; `name` is what the message calls it."""
        if not isinstance(value, (int, float)) or not math.isfinite(value) or not self.least <= value <= self.most:
            raise TetherError(f"{name} must be from {self.least:g} to {self.most:g}, not {value!r}")
