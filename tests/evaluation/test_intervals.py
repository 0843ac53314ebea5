"""Bootstrap intervals against what is known of means and counts."""

from __future__ import annotations

import numpy as np
import pytest

from tether.evaluation.intervals import ratio_of, score_of, tabulate
from tether.kinds.measures import CLASSES, Measure


def compare(found: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    raise AssertionError


HIGHER, LOWER = Measure("up", "up", compare), Measure("down", "down", compare, higher=False)


def values(*many: float) -> list[list[dict[str, float]]]:
    return [[{"value": one}] for one in many]


def test_the_interval_of_a_mean_is_about_1_96_standard_errors() -> None:
    sample = np.random.default_rng(0).normal(3, 2, 400)
    score = score_of(HIGHER, tabulate(values(*sample)))
    error = sample.std() / 20
    assert score.value == pytest.approx(sample.mean())
    assert score.low == pytest.approx(score.value - 1.96 * error, abs=0.25 * error)
    assert score.high == pytest.approx(score.value + 1.96 * error, abs=0.25 * error)


def test_equal_scores_have_no_width_and_the_same_scores_the_same_interval() -> None:
    score = score_of(HIGHER, tabulate(values(2, 2, 2)))
    assert (score.low, score.value, score.high) == (2, 2, 2)
    table = tabulate(values(1, 5, 2, 8))
    assert score_of(HIGHER, table) == score_of(HIGHER, table)


def test_pictures_of_one_case_stay_together() -> None:
    # Two cases whose pictures agree within each: were pictures drawn one by one, the interval would be narrower.
    rows = [[{"value": 0.0}] * 50, [{"value": 1.0}] * 50]
    score = score_of(HIGHER, tabulate(rows))
    assert (score.low, score.high) == (0.0, 1.0)


def test_times_better_divides_scores_and_errors_the_other_way_round() -> None:
    with_control, without = tabulate(values(0.8, 0.8)), tabulate(values(0.2, 0.2))
    assert ratio_of(HIGHER, with_control, without).value == pytest.approx(4)
    assert ratio_of(LOWER, without, with_control).value == pytest.approx(4)
    assert ratio_of(HIGHER, with_control, tabulate(values(0, 0))).value == float("inf")


def test_ratios_are_of_the_same_cases() -> None:
    # Every case is twice as good, however hard: the ratio is certain, though the scores are not.
    ratio = ratio_of(HIGHER, tabulate(values(0.2, 0.6, 1.0)), tabulate(values(0.1, 0.3, 0.5)))
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((2, 2, 2))


def test_a_key_that_a_picture_lacks_is_0_there() -> None:
    rows = [[{"0000ff both": 4, "0000ff either": 4}], [{"ff0000 both": 1, "ff0000 either": 2}]]
    table = tabulate(rows)
    assert table["0000ff both"].tolist() == [[4], [0]]
    assert score_of(CLASSES[0], table).value == pytest.approx((1 + 0.5) / 2)


def test_cases_of_one_subject_stay_together() -> None:
    # Two drawings, each at fifty places: as fifty cases each they would look certain.
    score = score_of(HIGHER, tabulate(values(*[0.0] * 50, *[1.0] * 50)), ["a"] * 50 + ["b"] * 50)
    assert (score.low, score.value, score.high) == (0.0, 0.5, 1.0)
