"""Normals of mirrored surfaces."""

from __future__ import annotations

import numpy as np

from tether.kinds.normal import flip, normals_of


def test_a_normal_to_the_right_becomes_one_to_the_left_and_the_others_stay() -> None:
    map_ = np.zeros((1, 4, 3), np.uint8)
    map_[0, 0] = 255, 127, 128  # to the right
    map_[0, 1] = 128, 255, 128  # up
    map_[0, 2] = 128, 128, 255  # to the viewer
    flipped = flip(map_)[0].tolist()
    assert flipped[3] == [0, 127, 128]
    assert flipped[2] == [127, 255, 128]
    assert flipped[1] == [127, 128, 255]
    assert flipped[0] == [0, 0, 0], "no surface, no normal"


def test_red_is_x_to_the_right_or_to_the_left_as_published_controls_want_it() -> None:
    falls = np.linspace(1, 0, 64)[None].repeat(64, axis=0)  # to the right: the surface faces right
    assert normals_of(falls)[32, 32, 0] > 128
    other = normals_of(falls, left=1)
    assert (other[..., 0] == 255 - normals_of(falls)[..., 0]).all()
    assert (other[..., 1:] == normals_of(falls)[..., 1:]).all()
