"""Crops are squares of the image, the first in the middle, and image and condition are cut alike."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tether.datasets.latents.crops import Crop, may_flip, random_crops


@pytest.mark.parametrize(("width", "height"), [(100, 80), (80, 100), (64, 64), (40, 90)])
def test_crops_lie_in_the_image_and_are_not_enlarged_where_it_is_large_enough(width: int, height: int) -> None:
    crops = random_crops(width, height, (64, 64), 20, True, np.random.default_rng(0))
    short = min(width, height)
    assert crops[0] == Crop((width - short) // 2, (height - short) // 2, short, False)
    for crop in crops:
        assert min(crop.left, crop.top) >= 0
        assert crop.left + crop.width <= width
        assert crop.top + crop.width <= height
        assert crop.width >= min(short, 64)
    assert {crop.flip for crop in crops} == {False, True}


def test_flips_can_be_left_out_without_changing_the_crops() -> None:
    flipped, plain = (random_crops(100, 80, (64, 64), 9, flips, np.random.default_rng(0)) for flips in (True, False))
    assert not any(crop.flip for crop in plain)
    assert [(c.left, c.top, c.width) for c in flipped] == [(c.left, c.top, c.width) for c in plain]


def test_a_side_in_the_caption_forbids_the_flip() -> None:
    assert not may_flip("canny", "a hand to the left")
    assert may_flip("canny", "a quarter of a melon, brightly lit")
    assert may_flip("openpose", "a melon")
    assert not may_flip("keypoints", "a melon")
    assert not may_flip("my-pose", "a melon")
    assert not may_flip("canny", 'a melon that says "melon"')


def test_an_unknown_kind_is_mirrored_only_on_request() -> None:
    for kind in ("anything", "face_landmarks"):
        assert not may_flip(kind, "a melon")
        assert may_flip(kind, "a melon", True)
    assert not may_flip("keypoints", "a melon", True)
    assert not may_flip("canny", "a melon", False)


def test_image_and_condition_are_cut_and_mirrored_alike() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8))
    for crop in random_crops(100, 80, (64, 64), 6, True, np.random.default_rng(1)):
        one, other = crop.of_image(image, (64, 64)), crop.of_condition(image, "anything", (64, 64))
        assert np.array_equal(np.asarray(one), np.asarray(other))
    cut = np.asarray(image)[10:74, 20:84]
    assert np.array_equal(np.asarray(Crop(20, 10, 64, True).of_image(image, (64, 64))), cut[:, ::-1])


@pytest.mark.parametrize("kind", ["seg", "openpose", "mine"])
@pytest.mark.parametrize("flip", [False, True])
def test_crops_of_flat_maps_have_no_new_colors(kind: str, flip: bool) -> None:
    colors = np.array([(0, 0, 0), (200, 200, 200), (120, 120, 120), (30, 200, 120)], np.uint8)
    map_ = Image.fromarray(colors[np.random.default_rng(0).integers(0, 4, (12, 10))].repeat(9, 0).repeat(9, 1))
    cut = np.asarray(Crop(3, 5, 83, flip).of_condition(map_, kind, (64, 64)))
    assert {tuple(c) for c in cut.reshape(-1, 3).tolist()} <= {tuple(c) for c in colors.tolist()}


def test_a_line_of_one_pixel_is_one_pixel_wide_in_a_crop_that_is_enlarged() -> None:
    map_ = Image.new("RGB", (60, 60))
    map_.paste((255, 255, 255), (30, 0, 31, 60))
    white = np.asarray(Crop(5, 5, 40, False).of_condition(map_, "canny", (64, 64)))[..., 0] > 0
    assert (white.sum(axis=1) == 1).all()
