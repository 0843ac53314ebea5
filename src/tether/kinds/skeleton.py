"""People -> their drawing in the colors of OpenPose, as controls for poses were trained with it.

Widths are those of the original at 512 pixels, and grow with the image's shorter side.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import cv2
import numpy as np

from tether.detectors.pose import Person
from tether.kinds.openpose import JOINT_COLORS, LIMB_COLORS, LIMBS

__all__ = ["FACE_POINTS", "draw_people", "joints_of_body"]

BLAZEPOSE = (0, None, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)
"""The point of a body that is joint k; the neck is the middle of the shoulders."""
SHOULDERS = (11, 12)
FINGERS = tuple((0 if k == 0 else 4 * finger + k, 4 * finger + k + 1) for finger in range(5) for k in range(4))
"""The points that each bone of a hand connects: wrist, thumb, ..., little finger."""
FACE_POINTS = (
    # jaw, from the right ear to the left
    *(162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389),
    *(71, 63, 105, 66, 107, 336, 296, 334, 293, 301),  # eyebrows
    *(168, 197, 5, 4, 75, 97, 2, 326, 305),  # nose
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),  # eyes
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87),  # mouth
)
"""The points of MediaPipe's face mesh that are the 68 of a face as OpenPose draws it."""
EYES = ((33, 160, 158, 133, 153, 144), (362, 385, 387, 263, 373, 380))
SEEN = 0.5
SIDE, STICK, RADIUS, BONE, DOT = 512, 4, 4, 2, 3
"""Shorter side for which these are: half the width of a limb, radius of a joint, width of a bone of a hand, radius of a
point of a face."""


def draw_people(people: Sequence[Person], height: int, width: int) -> np.ndarray:
    """The drawing of people, uint8 `(H, W, 3)`."""
    drawn = np.zeros((height, width, 3), np.uint8)
    scale = max(0.5, min(height, width) / SIDE)
    for person in people:
        joints = joints_of_body(person, height, width)
        for (start, end), color in zip(LIMBS, LIMB_COLORS, strict=True):
            if start in joints and end in joints:
                _limb(drawn, joints[start], joints[end], STICK * scale, color)
    for person in people:
        for number, (x, y) in joints_of_body(person, height, width).items():
            cv2.circle(drawn, (round(x), round(y)), max(2, round(RADIUS * scale)), JOINT_COLORS[number], -1)
    for person in people:
        for hand in (person.left_hand, person.right_hand):
            if hand is not None:
                _hand(drawn, hand, scale)
        if person.face is not None:
            _face(drawn, person.face, scale)
    return drawn


def joints_of_body(person: Person, height: int, width: int) -> dict[int, tuple[float, float]]:
    """The joints of COCO that are seen, by number: x and y in pixels."""
    seen = person.visible >= SEEN
    x, y = person.body.T
    seen &= (x >= 0) & (x < width) & (y >= 0) & (y < height)
    joints = {
        number: (float(x[point]), float(y[point]))
        for number, point in enumerate(BLAZEPOSE)
        if point is not None and seen[point]
    }
    if seen[list(SHOULDERS)].all():
        neck = person.body[list(SHOULDERS)].mean(axis=0)
        joints[1] = float(neck[0]), float(neck[1])
    return joints


def _limb(
    drawn: np.ndarray, start: tuple[float, float], end: tuple[float, float], half: float, color: tuple[int, int, int]
) -> None:
    """A limb: an ellipse from joint to joint."""
    (x0, y0), (x1, y1) = start, end
    axes = max(1, round(math.hypot(x1 - x0, y1 - y0) / 2)), max(1, round(half))
    angle = round(math.degrees(math.atan2(y1 - y0, x1 - x0)))
    polygon = cv2.ellipse2Poly((round((x0 + x1) / 2), round((y0 + y1) / 2)), axes, angle, 0, 360, 1)
    cv2.fillConvexPoly(drawn, np.asarray(polygon), color)


def _hand(drawn: np.ndarray, hand: np.ndarray, scale: float) -> None:
    points = [(round(x), round(y)) for x, y in hand.tolist()]
    for k, (start, end) in enumerate(FINGERS):
        color = tuple(round(255 * part) for part in colorsys.hsv_to_rgb(k / len(FINGERS), 1, 1))
        cv2.line(drawn, points[start], points[end], color, max(1, round(BONE * scale)))
    for point in points:
        cv2.circle(drawn, point, max(1, round(RADIUS * scale)), (0, 0, 255), -1)


def _face(drawn: np.ndarray, face: np.ndarray, scale: float) -> None:
    middles = [face[list(eye)].mean(axis=0) for eye in EYES]
    for x, y in [*face[list(FACE_POINTS)], *middles]:
        cv2.circle(drawn, (round(float(x)), round(float(y))), max(1, round(DOT * scale)), (255, 255, 255), -1)
