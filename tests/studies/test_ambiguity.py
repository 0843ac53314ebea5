"""The study of ambiguity: what it measures, how limits are fitted, and that what it shipped is what it found."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from tether.kinds.openness import LIMITS, agreement
from tether.studies.ambiguity import QUICK_LEVELS, STUDY, Point, fitted_limit, limit_of
from tether.studies.bench import Bench
from tether.studies.study import QUICK


def picture(*corner: int) -> np.ndarray:
    pixels = np.full((64, 64, 3), 40, np.uint8)
    cv2.rectangle(pixels, corner, (corner[0] + 20, corner[1] + 20), (220, 220, 220), -1)
    return pixels


def test_pictures_agree_as_far_as_they_show_the_same_and_where_nothing_is_shown_nothing_is_agreed_on() -> None:
    same, other, plain = picture(10, 10), picture(35, 35), np.full((64, 64, 3), 90, np.uint8)
    assert agreement([same, same, same]) == 1
    assert agreement([same, same, other]) == pytest.approx(1 / 3, abs=0.02)
    assert agreement([plain, plain]) == agreement([same, plain]) == 0


def test_the_limit_is_the_highest_one_that_is_precise_enough() -> None:
    points = [(0.1, True), (0.2, True), (0.3, False), (0.4, True), (0.6, False)]
    assert limit_of(points, 1.0) == pytest.approx(0.25)
    assert limit_of(points, 0.75) == pytest.approx(0.5)
    assert limit_of([(0.1, False), (0.2, True)], 0.9) == 0


def test_a_limit_is_fitted_by_what_is_nearer_to_blank_maps_than_to_whole_ones() -> None:
    levels = [("blank", 0.0, 0.1), ("swept 1/8", 0.03, 0.2), ("swept 1/4", 0.08, 0.7), ("whole", 0.3, 0.9)]
    points = [Point("case", level, structure, value) for level, structure, value in levels]
    assert fitted_limit(points) == pytest.approx(0.055)


def test_the_quick_study_runs_and_blank_maps_are_not_counted(tmp_path: Path) -> None:
    found = STUDY.run(Bench(tmp_path, QUICK, quick=True))
    assert found.verdict == "not judged"
    for name in ("no prompt", "prompt"):
        points = found.raw[f"canny, {name}"]["points"]
        assert len(points) == len(QUICK_LEVELS) * QUICK.cases
        assert {one["structure"] for one in points if one["level"] == "blank"} == {0}
        rows = [row for row in found.rows if row.name in (f"warning: canny, {name}", f"inspect: canny, {name}")]
        assert [row.scores["false alarms, whole maps"].value for row in rows] == [0, 0]
        assert all(0 <= one["quick"] <= 1 for one in points)
    (blank,) = [row for row in found.rows if row.name == "blank"]
    assert all(0 <= score.value <= 1 or math.isnan(score.value) for score in blank.scores.values())


def test_limits_are_shares_and_a_prompt_never_makes_the_warning_likelier() -> None:
    assert all(0 < one.with_prompt <= one.without_prompt < 0.1 for one in LIMITS.values())
