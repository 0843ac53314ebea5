"""mIoU, counted by hand and by torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest

from tether.datasets.synthetic.scenes.maps import CLASS_COLORS
from tether.kinds.ade20k import COLORS, is_ade20k
from tether.kinds.measures.regions import mean_iou, object_overlaps, overlaps

RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 255, 0)


def tabulated(rows: list[dict[str, float]]) -> dict[str, np.ndarray]:
    names = {name for row in rows for name in row}
    return {name: np.array([[row.get(name, 0.0)] for row in rows]) for name in names}


def test_pixels_are_counted_over_all_pictures() -> None:
    wanted = np.array([[RED, RED, BLUE, BLUE]], np.uint8)
    found = np.array([[RED, BLUE, BLUE, GREEN]], np.uint8)
    counted = overlaps(found, wanted)
    assert (counted["ff0000 both"], counted["ff0000 either"]) == (1, 2)
    assert (counted["0000ff both"], counted["0000ff either"]) == (1, 3)
    assert (counted["00ff00 both"], counted["00ff00 either"]) == (0, 1)
    assert mean_iou(tabulated([dict(counted)])) == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)
    right = overlaps(wanted, wanted)  # red 1+2 of 2+2, blue 1+2 of 3+2, green 0 of 1
    assert mean_iou(tabulated([dict(counted), dict(right)])) == pytest.approx((3 / 4 + 3 / 5 + 0) / 3)


def test_an_area_in_nearly_the_wanted_color_is_that_area_and_another_color_is_not() -> None:
    wanted = np.array([[RED, RED, BLUE, BLUE]], np.uint8)
    near = np.array([[(250, 8, 4), (250, 8, 4), (3, 2, 240), (3, 2, 240)]], np.uint8)
    assert mean_iou(tabulated([dict(overlaps(near, wanted))])) == 1.0
    other = np.array([[GREEN, GREEN, BLUE, BLUE]], np.uint8)
    assert mean_iou(tabulated([dict(overlaps(other, wanted))])) == pytest.approx(1 / 3)


def test_no_class_of_scenes_stands_for_another() -> None:
    palette = np.array([list(CLASS_COLORS.values())], np.uint8)
    for missing in range(palette.shape[1]):
        wanted = np.delete(palette, missing, axis=1)
        found = palette[:, [missing] * wanted.shape[1]]
        counted = overlaps(found, wanted)
        assert all(value == 0 for name, value in counted.items() if name.endswith("both"))


def test_no_class_of_ade20k_stands_for_another_however_near_its_color() -> None:
    wall, ceiling = (np.full((4, 4, 3), COLORS[k], np.uint8) for k in (0, 6))
    assert mean_iou(tabulated([dict(overlaps(wall, ceiling))])) == 0.0
    assert mean_iou(tabulated([dict(overlaps(wall, wall))])) == 1.0


def test_miou_is_that_of_torchmetrics() -> None:
    classification = pytest.importorskip("torchmetrics.functional.classification")
    import torch

    rng = np.random.default_rng(0)
    found, wanted = rng.integers(0, 4, (2, 5, 9, 9))
    palette = np.array([RED, BLUE, GREEN, (9, 9, 9)], np.uint8)
    rows = [dict(overlaps(palette[f], palette[w])) for f, w in zip(found, wanted, strict=True)]
    theirs = classification.multiclass_jaccard_index(
        torch.from_numpy(found), torch.from_numpy(wanted), 4, average="macro"
    )
    assert mean_iou(tabulated(rows)) == pytest.approx(float(theirs), abs=1e-6)


def test_a_mask_with_soft_borders_is_one_object() -> None:
    ramp = np.linspace(0, 255, 100).round().astype(np.uint8)
    wanted = ramp[None, :, None].repeat(10, axis=0).repeat(3, axis=2)
    found = np.roll(wanted, 2, axis=1)
    found[:, :2] = 0
    iou = mean_iou(tabulated([dict(object_overlaps(found, wanted))]))
    assert iou == pytest.approx((48 / 50 + 50 / 52) / 2)


def test_pixels_without_a_class_are_not_counted_in_maps_of_ade20k() -> None:
    wanted = np.zeros((4, 6, 3), np.uint8)
    wanted[:, :2], wanted[:, 2:4] = COLORS[0], COLORS[12]  # the rest has no class
    assert is_ade20k(wanted)
    found = wanted.copy()
    found[:, 4:] = COLORS[2]
    assert mean_iou(tabulated([dict(overlaps(found, wanted))])) == 1.0
