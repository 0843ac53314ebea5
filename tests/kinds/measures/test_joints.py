"""PCK@0.1 on drawings whose joints are known."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest

from tether.datasets.synthetic.scenes import MAPS, render, sample_scene
from tether.kinds.measures.joints import correct_joints, joints_of, share_of_correct
from tether.kinds.openpose import IMITATED, JOINT_COLORS, JOINT_PAIRS, LIMB_COLORS, LIMBS, flip
from tether.kinds.skeleton import _hand


def drawing(points: dict[int, tuple[int, int]], side: int = 200) -> np.ndarray:
    """A chain of limbs with its joints."""
    canvas = np.zeros((side, side, 3), np.uint8)
    for start, end in pairwise(points):
        limb = next(k for k, ends in enumerate(LIMBS) if {start, end} == {*ends})
        cv2.line(canvas, points[start], points[end], LIMB_COLORS[limb], 3)
    for number, place in points.items():
        cv2.circle(canvas, place, 3, JOINT_COLORS[number], -1)
    return canvas


FIGURE = {0: (100, 20), 1: (100, 50), 8: (100, 90), 9: (100, 120)}  # 100 pixels high: 0.1 is 10


def test_joints_are_read_from_their_colors() -> None:
    found = joints_of(drawing(FIGURE))
    assert found.keys() == FIGURE.keys()
    for number, place in FIGURE.items():
        assert found[number][0] == pytest.approx(place, abs=0.5)


def test_a_joint_within_a_tenth_of_the_figure_is_correct() -> None:
    wanted = drawing(FIGURE)
    assert correct_joints(wanted, wanted) == {"correct": 4, "wanted": 4}
    near = drawing(FIGURE | {9: (108, 120)})
    far = drawing(FIGURE | {9: (112, 120)})
    assert correct_joints(near, wanted) == {"correct": 4, "wanted": 4}
    assert correct_joints(far, wanted) == {"correct": 3, "wanted": 4}


def test_a_joint_of_another_number_does_not_count() -> None:
    mirrored = drawing({0: (100, 20), 1: (100, 50), 11: (100, 90), 12: (100, 120)})
    assert correct_joints(mirrored, drawing(FIGURE)) == {"correct": 2, "wanted": 4}


def test_a_map_full_of_joints_does_not_score() -> None:
    everywhere = np.zeros((200, 200, 3), np.uint8)
    for x in range(10, 200, 12):
        for y in range(10, 200, 12):
            cv2.circle(everywhere, (x, y), 5 if x < 60 else 3, JOINT_COLORS[9], -1)
    assert correct_joints(everywhere, drawing(FIGURE))["correct"] == 0


def test_of_two_figures_the_small_one_has_the_smaller_reach() -> None:
    small = {0: (20, 150), 1: (20, 160), 8: (20, 170), 9: (20, 180)}  # 30 pixels high: 0.1 is 3
    both = np.maximum(drawing(FIGURE), drawing(small))
    moved = np.maximum(drawing(FIGURE | {9: (106, 120)}), drawing(small | {9: (26, 180)}))
    assert correct_joints(moved, both) == {"correct": 7, "wanted": 8}


def test_empty_drawings() -> None:
    empty = np.zeros((50, 50, 3), np.uint8)
    assert correct_joints(drawing(FIGURE), np.zeros((200, 200, 3), np.uint8)) == {"correct": 0, "wanted": 0}
    assert correct_joints(empty, empty) == {"correct": 0, "wanted": 0}
    assert share_of_correct({"correct": np.zeros((1, 1)), "wanted": np.zeros((1, 1))}) == 1.0


def test_the_joints_of_a_rendered_scene_are_where_it_says() -> None:
    spec = next(one for one in map(sample_scene, range(50)) if len(one.mannequins) == 1)
    scene = render(spec, 256)
    found = joints_of(MAPS["openpose"](scene))
    (truth,) = scene.keypoints
    for number, many in found.items():
        assert truth[number, 2] == 1
        assert many[0] == pytest.approx(truth[number, :2] - 0.5, abs=2)


def test_fingers_are_no_joints() -> None:
    """The colors of a hand's bones and joints are within tolerance those of seven joints of a body."""
    bare = drawing(FIGURE)
    handed = bare.copy()
    hand = 30 + 120 * np.random.default_rng(0).random((21, 2)) * (0.4, 1)
    _hand(handed, hand, 1.0)
    imitated = {
        number
        for number, color in enumerate(JOINT_COLORS)
        if (np.abs(handed.astype(int) - color) <= 16).all(axis=2).sum() > (bare == color).all(axis=2).sum()
    }
    assert imitated == {0, 1, 8, 9, 10, 12, 17}
    other_sides = {right: left for pair in JOINT_PAIRS for right, left in (pair, pair[::-1])}
    assert imitated | {other_sides.get(joint, joint) for joint in imitated} == IMITATED.keys()
    assert {number: len(places) for number, places in joints_of(handed).items()} == dict.fromkeys(FIGURE, 1)
    assert correct_joints(bare, handed) == {"correct": 4, "wanted": 4}
    hands_alone = np.zeros_like(bare)
    _hand(hands_alone, hand, 1.0)
    assert joints_of(cv2.circle(np.zeros_like(bare), (50, 50), 3, JOINT_COLORS[12], -1)).keys() == {12}  # a judge's
    assert np.array_equal(flip(hands_alone), hands_alone[:, ::-1])


def test_of_a_figure_that_shows_one_joint_it_may_be_off_by_its_radius() -> None:
    wanted = drawing({0: (100, 20)})
    assert correct_joints(drawing({0: (103, 20)}), wanted) == {"correct": 1, "wanted": 1}
    assert correct_joints(drawing({0: (110, 20)}), wanted) == {"correct": 0, "wanted": 1}
