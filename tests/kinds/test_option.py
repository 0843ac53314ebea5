"""The options of annotators."""

from __future__ import annotations

import math

import pytest

from tether.errors import TetherError
from tether.kinds import Option

OPTION = Option(3, 1, 5, "a number")


@pytest.mark.parametrize("value", [1, 5, 2.5])
def test_values_from_the_least_to_the_most_are_valid(value: float) -> None:
    OPTION.check("pen", value)


@pytest.mark.parametrize("value", [0.99, 5.01, math.nan, math.inf, "3", None])
def test_other_values_are_refused_with_the_range(value: object) -> None:
    with pytest.raises(TetherError, match="pen must be from 1 to 5, not"):
        OPTION.check("pen", value)  # type: ignore[arg-type]
