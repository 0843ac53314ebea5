"""Crops and flips."""

from __future__ import annotations

import pytest

from tether.datasets.latents.crops import may_flip


@pytest.mark.parametrize(
    "caption", ["a hand to the left", "Leftwards arrow", "a counter-clockwise arrow", "the waxing moon", "last quarter"]
)
def test_what_a_mirror_would_belie_is_not_mirrored(caption: str) -> None:
    assert not may_flip("canny", caption)
    assert may_flip("canny", "a quarter of a melon, brightly lit")
    assert may_flip("openpose", "a melon")
    assert not may_flip("keypoints", "a melon")
    assert not may_flip("my-pose", "a melon")
