"""Mannequins and their key points."""

from __future__ import annotations

import numpy as np
import pytest

from tether.datasets.synthetic.scenes import (
    JOINTS,
    POSES,
    MannequinSpec,
    SolidSpec,
    render,
)
from tether.datasets.synthetic.scenes.mannequin import joints

from .geometry import (
    SIZE,
    scene_of,
    to_pixels,
)


@pytest.mark.parametrize("pose", POSES)
def test_keypoints_lie_where_the_joints_project_and_visible_ones_on_their_mannequin(pose: str) -> None:
    mannequin = MannequinSpec(pose, "green", "matte", 0.0, 0.0, 1.9, 0.3, 5)
    scene = render(scene_of(mannequins=(mannequin,)), SIZE)
    (keypoints,) = scene.keypoints
    assert keypoints.shape == (18, 3) == (len(JOINTS), 3)
    np.testing.assert_allclose(keypoints[:, :2], to_pixels(joints(mannequin)), atol=0.01)
    visible = keypoints[keypoints[:, 2] == 1]
    assert len(visible) >= 14, "nothing stands before it"
    assert (scene.instance[visible[:, 1].astype(int), visible[:, 0].astype(int)] == 2).all()


def test_a_mannequin_that_faces_the_camera_has_its_right_side_at_the_left() -> None:
    mannequin = MannequinSpec("standing", "green", "matte", 0.0, 0.0, 1.9, 0.0, 5)
    (keypoints,) = render(scene_of(mannequins=(mannequin,)), SIZE).keypoints
    place = {name: keypoints[k] for k, name in enumerate(JOINTS)}
    for part in ("shoulder", "elbow", "hip", "ankle", "eye", "ear"):
        assert place[f"right_{part}"][0] < place[f"left_{part}"][0]
    heights = [place[name][1] for name in ("nose", "neck", "right_hip", "right_knee", "right_ankle")]
    assert heights == sorted(heights), "y grows downwards from nose to ankle"


def test_a_keypoint_behind_another_object_is_not_visible() -> None:
    mannequin = MannequinSpec("standing", "green", "matte", 0.0, 1.0, 1.9, 0.0, 5)
    cube = SolidSpec("cube", "red", "matte", 0.0, -0.6, 0.6, 0.0)
    scene = render(scene_of(cube, mannequins=(mannequin,)), SIZE)
    (keypoints,) = scene.keypoints
    u, v = keypoints[:, 0].astype(int), keypoints[:, 1].astype(int)
    behind = scene.instance[v, u] == 2
    assert 0 < behind.sum() < 18
    assert not keypoints[behind, 2].any()
