"""Canny edges."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tether.kinds import annotate
from tether.kinds.canny import KIND, random_canny


@pytest.fixture
def square() -> Image.Image:
    image = Image.new("RGB", (64, 48), (20, 20, 20))
    image.paste((220, 220, 220), (16, 12, 48, 36))
    return image


def test_edges_lie_where_the_square_ends(square: Image.Image) -> None:
    edges = np.asarray(annotate("canny", square))
    assert edges.shape == (48, 64, 3)
    assert set(np.unique(edges)) == {0, 255}
    rows, columns = np.nonzero(edges[..., 0])
    assert {rows.min(), rows.max()} <= {11, 12, 35, 36}
    assert {columns.min(), columns.max()} <= {15, 16, 47, 48}
    assert edges[20:28, 24:40].max() == 0


def test_higher_thresholds_find_fewer_edges() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(90, 160, (64, 64, 3), np.uint8))
    few, many = (np.asarray(annotate("canny", noise, low=low, high=high)).sum() for low, high in ((200, 300), (20, 40)))
    assert few < many


def test_random_thresholds_depend_on_the_generator_alone() -> None:
    noise = np.random.default_rng(0).integers(60, 200, (64, 64, 3), np.uint8)
    maps = [random_canny(noise, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(maps[0], maps[1])
    assert not np.array_equal(maps[0], maps[2])
    assert KIND.vary is not None
    assert np.array_equal(KIND.vary(noise, np.random.default_rng(1)), np.stack([maps[0]] * 3, axis=2))
