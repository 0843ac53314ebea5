"""Scores over seeds and conditions."""

from __future__ import annotations

import pytest

from tether.evaluation.intervals import score_of, tabulate
from tether.kinds.measures import Measure
from tether.studies.statistics import Rows, difference_of_seeds, score_of_seeds


def unused(found: object, wanted: object) -> dict[str, float]:
    raise NotImplementedError


MEAN = Measure("mean", "mean", unused)


def rows(*values: float) -> Rows:
    return [[{"value": value}] for value in values]


def test_the_score_is_that_of_all_images_of_all_seeds() -> None:
    assert score_of_seeds(MEAN, [rows(1, 2, 3), rows(5, 6, 7)]).value == pytest.approx(4)


def test_with_one_seed_the_interval_is_that_of_the_conditions() -> None:
    values = [float(k % 7) for k in range(40)]
    ours, theirs = score_of_seeds(MEAN, [rows(*values)]), score_of(MEAN, tabulate(rows(*values)))
    assert ours.value == theirs.value
    # Standard error of the mean, 40 conditions: the interval is about two of them to each side.
    assert ours.high - ours.low == pytest.approx(theirs.high - theirs.low, rel=0.15)


def test_seeds_that_differ_widen_the_interval_and_seeds_that_agree_do_not() -> None:
    agree = score_of_seeds(MEAN, [rows(*[1.0] * 20)] * 3)
    differ = score_of_seeds(MEAN, [rows(*[value] * 20) for value in (0.0, 1.0, 2.0)])
    assert (agree.low, agree.high) == (1, 1)
    assert differ.low < 0.5 < 1.5 < differ.high


def test_a_difference_of_the_same_conditions_is_known_better_than_either_score() -> None:
    values = [float(k) for k in range(30)]
    ours, theirs = [rows(*[value + 0.5 for value in values])], [rows(*values)]
    difference = difference_of_seeds(MEAN, ours, theirs)
    assert difference.value == pytest.approx(0.5)
    assert difference.high - difference.low < 1e-9 < score_of_seeds(MEAN, ours).high - score_of_seeds(MEAN, ours).low
