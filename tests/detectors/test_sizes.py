"""Networks of full resolution work on images that fit into memory."""

from __future__ import annotations

import numpy as np

from tether.detectors.pretrained import _size
from tether.detectors.sizes import reduced


def test_a_large_image_is_reduced_in_its_shape_and_a_small_one_stays() -> None:
    large = np.zeros((3000, 4000, 3), np.uint8)
    assert reduced(large, 1_000_000).shape == (866, 1154, 3)
    assert reduced(np.zeros((3, 2_000_000, 3), np.uint8), 1_000_000).shape[0] >= 1
    small = np.zeros((30, 40, 3), np.uint8)
    assert reduced(small).shape == small.shape


def test_the_longer_side_is_limited_too() -> None:
    assert _size(100, 200, {"size": {"shortest_edge": 50}}) == (50, 100)
    assert _size(8, 8000, {"size": {"shortest_edge": 512}}) == (2, 2048)
    assert _size(100, 200, {"size": {"longest_edge": 50}}) == (25, 50)
    assert _size(100, 200, {"size": {"shortest_edge": 80, "longest_edge": 100}}) == (50, 100)
    assert _size(100, 200, {"size": {"max_height": 80, "max_width": 80}}) == (512, 1024)
