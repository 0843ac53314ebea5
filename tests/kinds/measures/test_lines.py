"""F1 of edge maps, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tether.kinds.measures import LINES, STROKES
from tether.kinds.measures.lines import exact_counts, exact_f1, stroke_f1, tolerant_f1


def column(x: int, side: int = 20) -> np.ndarray:
    """A map with one white column."""
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[:, x] = 255
    return pixels


def test_an_edge_two_pixels_aside_is_right_with_tolerance_and_wrong_without() -> None:
    assert tolerant_f1(column(12), column(10)) == {"value": 1.0}
    assert tolerant_f1(column(13), column(10)) == {"value": 0.0}
    assert exact_counts(column(12), column(10)) == {"both": 0, "found": 20, "wanted": 20}


def table(*conditions: list[dict[str, float]]) -> dict[str, np.ndarray]:
    return {k: np.array([[one[k] for one in row] for row in conditions]) for k in ("both", "found", "wanted")}


def test_the_pictures_of_one_condition_are_counted_together_and_conditions_averaged() -> None:
    right, half = {"both": 10, "found": 0, "wanted": 0}, {"both": 5, "found": 5, "wanted": 5}
    wrong = {"both": 0, "found": 10, "wanted": 10}
    # condition 1: TP 15, FP 5, FN 5 -> 30 / 40; condition 2: TP 5, FP 15, FN 15 -> 10 / 40
    assert exact_f1(table([right, half], [half, wrong])) == pytest.approx((0.75 + 0.25) / 2)


def test_a_pair_of_empty_maps_agrees() -> None:
    empty = exact_counts(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8))
    assert exact_f1(table([dict(empty)])) == 1.0


def test_exact_f1_is_that_of_torchmetrics() -> None:
    classification = pytest.importorskip("torchmetrics.functional.classification")
    import torch

    rng = np.random.default_rng(0)
    found, wanted = (rng.random((2, 30, 30)) < 0.3 for _ in range(2))
    maps = (one[..., None].repeat(3, axis=3) * np.uint8(255) for one in (found, wanted))
    rows = [dict(exact_counts(*pair)) for pair in zip(*maps, strict=True)]
    theirs = classification.binary_f1_score(torch.from_numpy(found).flatten(), torch.from_numpy(wanted).flatten())
    assert exact_f1(table(rows)) == pytest.approx(float(theirs), abs=1e-6)


def test_strokes_are_compared_by_their_middle_lines() -> None:
    thin, thick = column(30, 60), column(30, 60)
    thick[:, 24:37] = 255
    assert stroke_f1(thin, thick)["value"] == pytest.approx(1.0)
    assert tolerant_f1(thin, thick)["value"] < 0.6


def test_the_table_measures_what_its_functions_do() -> None:
    tolerant, exact = LINES
    assert tolerant.compare(column(12), column(10)) == {"value": 1.0}
    assert exact.pool(table([dict(exact.compare(column(10), column(10)))])) == 1.0
    assert STROKES[0].compare(column(10), column(10)) == {"value": 1.0}
