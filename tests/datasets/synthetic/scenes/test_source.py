"""The set `scenes` and its exact conditions."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tether.datasets.source import Rejected
from tether.datasets.sources import open_source
from tether.datasets.synthetic.scenes import MAPS, render, sample_scene
from tether.errors import TetherError


def test_scenes_end_before_the_held_out_ones() -> None:
    with pytest.raises(TetherError, match="count is 1000001, but scenes has 1000000 for training: ask for fewer"):
        open_source("scenes", count=1_000_001)


def test_a_sample_has_the_exact_map_of_the_kind_asked_for_and_the_same_image_for_every_kind() -> None:
    source = open_source("scenes", size=64, count=2)
    scene = render(sample_scene(1), 64)  # with a mannequin
    assert source.exact_conditions == set(MAPS) == {"depth", "normal", "seg", "openpose"}
    plain = source.sample(1)
    assert plain.condition is None
    assert source.sample(1, "canny").condition is None
    for kind, draw in MAPS.items():
        sample = source.sample(1, kind)
        assert isinstance(sample.condition, Image.Image)
        assert np.array_equal(np.asarray(sample.condition), draw(scene))
        assert np.array_equal(np.asarray(sample.image), scene.image)
        assert (sample.key, sample.caption) == (plain.key, plain.caption)


def test_a_scene_without_a_mannequin_is_not_a_pose_sample() -> None:
    source = open_source("scenes", size=64, count=2)
    with pytest.raises(Rejected, match="empty condition: the scene has no mannequin"):
        source.sample(0, "openpose")
