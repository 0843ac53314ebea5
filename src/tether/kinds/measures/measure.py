"""What a measure is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Measure", "Numbers", "Table", "mean"]

Numbers = Mapping[str, float]
"""What is counted or measured on one pair of maps, by name. Keys that are absent are 0."""
Table = Mapping[str, "np.ndarray"]
"""The same of many pairs: each float64 `(C, I)`, of I pictures for each of C conditions."""
Compare = Callable[..., Numbers]
"""(found, wanted), uint8 `(H, W, 3)` RGB each -> numbers. See `Measure.against`."""


def mean(table: Table) -> float:
    """The mean of "value" over all pairs."""
    return float(table["value"].mean())


def _not_of_a_pair(found: np.ndarray, wanted: np.ndarray) -> Numbers:
    raise NotImplementedError("this measure does not compare an image with a map: its numbers come from elsewhere")


@dataclass(frozen=True)
class Measure:
    """One measure of a kind of condition.

    Attributes:
        key: its name in JSON.
        title: its name for people.
        compare: the numbers of one pair; left out by measures that are not of a pair, such as prompt agreement.
        pool: the numbers of many pairs -> the score.
        higher: whether a higher score is better; a perfect score is then 1, and else 0. None where neither is: of
            sharpness, less is blurred and more is noise.
        unit: of the score, for people.
        digits: after the decimal point, for people.
        against: what `compare` is given: the map that is found in the drawn picture and the condition ("map"); the
            picture itself and the condition ("condition"), or the image that the condition was made from ("image"), or
            that image and where it was inpainted, bool `(H, W)` ("hole").
    """

    key: str
    title: str
    compare: Compare = _not_of_a_pair
    pool: Callable[[Table], float] = mean
    higher: bool | None = True
    unit: str = ""
    digits: int = 3
    against: Literal["map", "condition", "image", "hole"] = "map"

    @property
    def arrow(self) -> str:
        """Where better is, for heads of tables: " ↑", " ↓" or nothing."""
        return {True: " ↑", False: " ↓", None: ""}[self.higher]
