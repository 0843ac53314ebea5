"""Random scribbles of an image, as a control is trained on them; what holds for every kind is in test_kind.py."""

from __future__ import annotations

import numpy as np
import pytest

from tether.kinds.scribble import random_scribble


@pytest.fixture
def square() -> np.ndarray:
    """A red square with a lighter band on a white ground, 128 px."""
    pixels = np.full((128, 128, 3), 255, np.uint8)
    pixels[32:96, 32:96] = (200, 40, 40)
    pixels[60:70, 32:96] = (230, 120, 120)
    return pixels


def test_a_random_scribble_keeps_to_the_outline_by_a_hand_that_wavers(square: np.ndarray) -> None:
    """Whatever pen draws: strokes near the four sides, black or white, and none in the empty corners."""
    y, x = np.mgrid[:128, :128]
    away = np.maximum(abs(x - 63.5), abs(y - 63.5))
    for seed in range(12):
        strokes = random_scribble(square, np.random.default_rng(seed))[..., 0]
        assert set(np.unique(strokes)) <= {0, 255}
        assert not strokes[away > 32 + 10].any()
        near = (strokes > 0) & (abs(away - 31.5) < 8)
        for side in (near[:, 40:88][:64], near[:, 40:88][64:], near[40:88][:, :64], near[40:88][:, 64:]):
            assert side.any()
