"""Sharpness and diversity of pictures that are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tether.evaluation.pictures import diversity, sharpness


def test_a_blurred_picture_is_less_sharp_and_a_plain_one_not_at_all() -> None:
    board = (np.indices((64, 64)).sum(axis=0) // 8 % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    assert sharpness(np.full((64, 64, 3), 90, np.uint8))["value"] == 0
    assert sharpness(cv2.GaussianBlur(board, (0, 0), 2))["value"] < 0.5 * sharpness(board)["value"]


def test_diversity_is_the_mean_difference_over_all_pairs() -> None:
    pictures = [np.full((4, 4, 3), level, np.uint8) for level in (0, 10, 40)]
    assert diversity(pictures)["value"] == pytest.approx((10 + 40 + 30) / 3)
    assert diversity(pictures[:1] * 3)["value"] == 0
