"""People are found where they are, and drawn as OpenPose draws them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tether.datasets.synthetic.scenes.source import Scenes
from tether.detectors.pose import Person, find_people
from tether.detectors.pose.boxes import GRIDS, _anchors, _overlap, _parts
from tether.detectors.pose.square import Square
from tether.kinds import kind_of
from tether.kinds.measures.joints import correct_joints, joints_of
from tether.kinds.openpose import JOINT_COLORS
from tether.kinds.skeleton import FACE_POINTS, draw_people, joints_of_body


@pytest.mark.parametrize("scene", [3, 18])
def test_a_mannequin_is_found_at_its_exact_joints(scene: int) -> None:
    """Both look at the camera: one walks, one has its hands on its hips. The condition is exact, from the renderer."""
    sample = Scenes(256, 100).sample(scene, "openpose")
    annotator = kind_of("openpose").annotator()
    found = annotator.detect(np.asarray(sample.image), hands=0, face=0)
    numbers = correct_joints(found, np.asarray(sample.condition))
    assert numbers["wanted"] == 18
    assert numbers["correct"] >= 13


@pytest.mark.parametrize("level", [0, 127, 255])
def test_an_image_without_people_gives_a_black_map(level: int) -> None:
    annotator = kind_of("pose").annotator()
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    for image in (np.full((64, 80, 3), level, np.uint8), noise, np.zeros((1, 1, 3), np.uint8)):
        map_ = annotator.detect(image, hands=1, face=1)
        assert map_.shape == image.shape
        assert not map_.any()
        assert find_people(image) == []


def test_a_square_gives_its_points_and_pixels_where_they_are() -> None:
    square = Square(40, 30, 20, math.pi / 2)  # turned clockwise: its top is on the right
    corners = square.points(np.array([[0, 0], [1, 0], [0.5, 0.5]]))
    assert np.allclose(corners, [[50, 20], [50, 40], [40, 30]])
    image = np.zeros((60, 80, 3), np.uint8)
    image[28:32, 46:50] = 255  # right of the middle: at the top of the square
    cut = square.cut(image, 20)
    assert cut.shape == (1, 3, 20, 20)
    y, x = np.argwhere(cut[0, 0].numpy() > 0.5).mean(axis=0)
    assert (round(y), round(x)) == (2, 10)
    assert not square.cut(image, 20)[0, 0, 12:].any()


def test_a_square_outside_of_the_image_is_black_there_and_shrinks_by_area() -> None:
    image = np.full((40, 40, 3), 200, np.uint8)
    cut = Square(0, 20, 40).cut(image, 10)[0, 0]
    assert cut[:, :4].max() < 0.1
    assert cut[3:7, 6:].min() > 0.7
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    assert abs(Square(128, 128, 256).cut(stripes, 16)[0, 0, 2:-2, 2:-2] - 0.5).max() < 0.05


@pytest.mark.parametrize(("end", "angle"), [((0, -10), 0), ((10, 0), 90), ((0, 10), 180), ((-10, 0), -90)])
def test_a_square_is_turned_so_that_its_end_is_up(end: tuple[int, int], angle: int) -> None:
    square = Square.between(np.zeros(2), np.array(end))
    assert square.side == 20
    assert math.isclose(math.cos(square.angle), math.cos(math.radians(angle)), abs_tol=1e-9)
    assert math.isclose(math.sin(square.angle), math.sin(math.radians(angle)), abs_tol=1e-9)
    top = square.points(np.array([[0.5, 0.0]]))[0]
    assert np.allclose(top, end)
    assert np.allclose([square.scaled(2, up=0.5).x, square.scaled(2, up=0.5).y], end)


def test_anchors_are_the_middles_of_the_grids() -> None:
    anchors = _anchors()
    assert anchors.shape == (sum(side * side * count for side, count in GRIDS), 2) == (2254, 2)
    assert np.allclose(anchors[:3], [[0.5 / 28, 0.5 / 28], [0.5 / 28, 0.5 / 28], [1.5 / 28, 0.5 / 28]])
    assert np.allclose(anchors[-1], [6.5 / 7, 6.5 / 7])


def test_parts_cover_the_image_and_small_images_have_none() -> None:
    for height, width in ((512, 512), (300, 900), (900, 300)):
        parts = _parts(height, width)
        seen = np.zeros((height, width), bool)
        for part in parts[1:]:
            left, top = (max(0, round(at - part.side / 2)) for at in (part.x, part.y))
            seen[top : round(part.y + part.side / 2), left : round(part.x + part.side / 2)] = True
        assert seen.all()
        assert parts[0].side == max(height, width)
    assert len(_parts(100, 400)) == 1


def test_overlap_is_intersection_over_union() -> None:
    assert _overlap(np.array([0, 0, 2, 2]), np.array([1, 1, 3, 3])) == pytest.approx(1 / 7)
    assert _overlap(np.array([0, 0, 1, 1]), np.array([2, 2, 3, 3])) == 0


def person(**seen: float) -> Person:
    """Somebody in a frontal pose of 512 pixels; all is seen but what is said."""
    body = np.zeros((33, 2))
    places = {0: (256, 80), 2: (266, 70), 5: (246, 70), 7: (280, 75), 8: (232, 75), 11: (310, 140), 12: (202, 140)}
    places |= {13: (340, 220), 14: (172, 220), 15: (350, 300), 16: (162, 300), 23: (285, 300), 24: (227, 300)}
    places |= {25: (285, 400), 26: (227, 400), 27: (285, 490), 28: (227, 490)}
    for point, place in places.items():
        body[point] = place
    visible = np.ones(33)
    for name, value in seen.items():
        visible[int(name[1:])] = value
    return Person(body, visible)


def test_a_person_is_drawn_with_the_joints_of_coco_in_their_colors() -> None:
    drawn = draw_people([person()], 512, 512)
    joints = joints_of(drawn)
    assert sorted(joints) == list(range(18))
    expected = {
        0: (256, 80),
        1: (256, 140),
        2: (202, 140),
        5: (310, 140),
        4: (162, 300),
        10: (227, 490),
        13: (285, 490),
    }
    for number, place in expected.items():
        assert np.abs(joints[number][0] - place).max() <= 1.5, number
    assert tuple(drawn[490, 227]) == JOINT_COLORS[10]
    # The right arm is that of the person: on the left of the image.
    flipped = kind_of("openpose").flip
    assert flipped is not None
    mirrored = joints_of(flipped(drawn))
    assert abs(mirrored[5][0][0] - (511 - 202)) <= 1.5


def test_what_is_not_seen_or_outside_is_not_drawn() -> None:
    joints = joints_of_body(person(p15=0.1, p12=0.2), 512, 512)
    assert {7, 2, 1} & set(joints) == set()  # left wrist, right shoulder, and with it the neck
    assert set(joints_of_body(person(), 400, 512)) == set(range(18)) - {9, 10, 12, 13}


def test_hands_and_faces_are_drawn_inside_the_image_and_widths_grow_with_it() -> None:
    rng = np.random.default_rng(0)
    hand, face = rng.uniform(-20, 140, (21, 2)), rng.uniform(20, 100, (468, 2))
    one = Person(person().body / 4, person().visible, hand, None, face)
    drawn = draw_people([one], 128, 128)
    assert (drawn == 255).all(axis=2).sum() >= 40
    assert ((drawn == (0, 0, 255)).all(axis=2)).any()
    assert len(FACE_POINTS) == 68
    large = draw_people([Person(person().body * 2, person().visible)], 1024, 1024)
    small = draw_people([person()], 512, 512)
    assert large.any(axis=2).mean() == pytest.approx(small.any(axis=2).mean(), rel=0.1)


def test_batches_of_the_detector_are_the_single_images() -> None:
    from tether.detectors.graph import shipped_network

    x = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    both, single = shipped_network("pose_detection")(x), shipped_network("pose_detection")(x[1:])
    assert all(torch.allclose(a[1:], b, atol=1e-3) for a, b in zip(both, single, strict=True))
