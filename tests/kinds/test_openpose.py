"""Poses of mirrored bodies."""

from __future__ import annotations

import cv2
import numpy as np

from tether.kinds.openpose import JOINT_COLORS, LIMB_COLORS, flip

LIMBS = ((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0))
LIMBS += ((0, 14), (14, 16), (0, 15), (15, 17))
SIDES = {"right": (2, 3, 4, 8, 9, 10, 14, 16), "left": (5, 6, 7, 11, 12, 13, 15, 17)}
JOINTS = np.array(
    [
        (120, 40),  # nose, neck, right arm, left arm
        (128, 70),
        (100, 72),
        (80, 110),
        (90, 140),
        (158, 74),
        (190, 60),
        (210, 20),
        (110, 140),  # right leg, left leg
        (108, 180),
        (90, 230),
        (146, 142),
        (170, 170),
        (200, 220),
        (112, 32),  # eyes, ears
        (130, 30),
        (102, 36),
        (142, 34),
    ]
)


def drawn(joints: np.ndarray) -> np.ndarray:
    """A body as ControlNet 1.1 draws it, 256 x 256."""
    map_ = np.zeros((256, 256, 3), np.uint8)
    for (start, end), color in zip(LIMBS, LIMB_COLORS, strict=True):
        cv2.line(map_, joints[start].tolist(), joints[end].tolist(), color, 5)
    for joint, color in zip(joints, JOINT_COLORS, strict=True):
        cv2.circle(map_, joint.tolist(), 4, color, -1)
    return map_


def test_the_flipped_map_is_that_of_the_mirrored_body() -> None:
    mirrored = np.stack([255 - JOINTS[:, 0], JOINTS[:, 1]], axis=1)
    mirrored[[*SIDES["right"], *SIDES["left"]]] = mirrored[[*SIDES["left"], *SIDES["right"]]]
    expected, found = drawn(mirrored), flip(drawn(JOINTS))
    body = expected.any(axis=2) | found.any(axis=2)
    same = (expected == found).all(axis=2)
    assert same[body].mean() > 0.97  # lines of mirrored ends may differ by a pixel at their borders
    assert {tuple(color) for color in found[body]} == {tuple(color) for color in expected[body]}


def test_hands_and_faces_keep_their_colors() -> None:
    """Both hands have one set of colors; the blue of their joints is that of a knee."""
    map_ = np.zeros((64, 64, 3), np.uint8)
    cv2.line(map_, (10, 10), (30, 12), (0, 255, 255), 2)
    cv2.line(map_, (10, 30), (30, 32), (255, 76, 0), 2)
    cv2.circle(map_, (40, 40), 4, (0, 0, 255), -1)
    cv2.circle(map_, (50, 10), 3, (255, 255, 255), -1)
    assert np.array_equal(flip(map_), map_[:, ::-1])


def test_a_map_saved_as_jpeg_is_recognized() -> None:
    exact = drawn(JOINTS)
    noisy = np.clip(exact.astype(int) + np.random.default_rng(0).integers(-9, 10, exact.shape), 0, 255).astype(np.uint8)
    inside = cv2.erode(exact.any(axis=2).astype(np.uint8), np.ones((3, 3), np.uint8))[:, ::-1] > 0
    assert np.abs(flip(noisy).astype(int) - flip(exact))[inside].max() < 16
