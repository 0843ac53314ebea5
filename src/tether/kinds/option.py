"""A numeric option of an annotator."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tether.errors import TetherError

__all__ = ["Option"]


@dataclass(frozen=True)
class Option:
    """A number that an annotator takes.

    Attributes:
        default: the value when the option is left out.
        least, most: the valid range, both ends included.
        help: one line for people.
        aliases: older names of the option, which keep working.
    """

    default: float
    least: float
    most: float
    help: str
    aliases: tuple[str, ...] = ()

    def check(self, name: str, value: float) -> None:
        """Checks a value.

        Raises:
            TetherError: when `value` is not a number in the range; `name` is what the message calls it.
        """
        if not isinstance(value, (int, float)) or not math.isfinite(value) or not self.least <= value <= self.most:
            raise TetherError(f"{name} must be from {self.least:g} to {self.most:g}, not {value!r}")
