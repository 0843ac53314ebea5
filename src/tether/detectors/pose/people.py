"""The points of each person: body, hands, face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from tether.detectors.graph import shipped_network
from tether.detectors.pose.boxes import find_boxes
from tether.detectors.pose.square import Square

__all__ = ["Person", "find_people"]

BODY_SIDE, HAND_SIDE, CROP_SIDE, FACE_SIDE = 256, 224, 256, 192
SURE = 0.5
SURE_OF_BODY = 0.65
"""Whom the detector is less sure of must have a face that is seen: lamps and bushes have none."""
WINDOW = 7
"""Places of a heat map around a point that refine it."""
MOST = 10
"""People."""
SAME = 0.15
"""Two bodies whose joints are this close, in sides of the larger one's bounding box, are one."""
NOSE, LEFT_EYE, RIGHT_EYE = 0, 2, 5
HANDS = {"left": (15, 17, 19), "right": (16, 18, 20)}
"""Wrist, little finger and forefinger in the points of the body."""
FACE_EYES = (33, 263)
"""Outer corners of the right and the left eye in the points of the face."""
SMALLEST_HAND = 12.0
"""Side in pixels of the square of a hand, below which its fingers cannot be seen."""


@dataclass(frozen=True)
class Person:
    """The points of a person, x and y in pixels.

    Attributes:
        body: `(33, 2)`, in BlazePose's order: nose, eyes, ears, mouth, then left and right of shoulder, elbow, ...
        visible: `(33,)`, how probably each is seen.
        left_hand, right_hand: `(21, 2)`, or None when it is not seen: the person's own left and right.
        face: `(468, 2)`, or None.
    """

    body: np.ndarray
    visible: np.ndarray
    left_hand: np.ndarray | None = None
    right_hand: np.ndarray | None = None
    face: np.ndarray | None = None


def find_people(pixels: np.ndarray, *, hands: bool = True, face: bool = True) -> list[Person]:
    """The people in uint8 `(H, W, 3)` RGB, the surest first.

    Args:
        pixels: the image.
        hands: whether to look for hands.
        face: whether to look for faces.
    """
    image = np.ascontiguousarray(pixels)
    if np.ptp(image, axis=(0, 1)).max() < 8:
        return []
    people: list[Person] = []
    for found in find_boxes(image, MOST):
        body = _body(image, found.square)
        if body is None or any(_is_same(body, other) for other in people):
            continue
        seen = _face(image, body) if face or found.score < SURE_OF_BODY else None
        if seen is None and found.score < SURE_OF_BODY:
            continue
        left, right = (_hand(image, body, HANDS[side]) if hands else None for side in ("left", "right"))
        people.append(Person(body.body, body.visible, left, right, seen if face else None))
    return people


def _body(image: np.ndarray, square: Square) -> Person | None:
    """The body in a square, and then in the square that its points give; None when nobody is there."""
    person = None
    for _ in range(2):
        rows, score, heat = shipped_network("pose_landmark")(square.cut(image, BODY_SIDE))
        if float(score) < SURE:
            return person
        values = rows.numpy().reshape(39, 5)
        points = square.points(_refined(values[:, :2] / BODY_SIDE, heat[0]))
        seen = 1 / (1 + np.exp(-values[:33, 3:5]))
        person = Person(points[:33], seen.min(axis=1))
        square = Square.between(points[33], points[34]).scaled(1.25)
    return person


def _refined(points: np.ndarray, heat: Tensor) -> np.ndarray:
    """Points `(39, 2)` moved to the middle of the heat around them, `(39, h, w)`, where that is sure."""
    height, width = heat.shape[1:]
    reach = WINDOW // 2
    warm = F.pad(heat.sigmoid(), (reach,) * 4).numpy()
    refined = points.copy()
    for k, (x, y) in enumerate(points * (width, height)):
        column, row = int(x), int(y)
        if not (0 <= column < width and 0 <= row < height):
            continue
        window = warm[k, row : row + WINDOW, column : column + WINDOW]
        if window.max() >= SURE and window.sum() > 0:
            rows, columns = np.mgrid[row - reach : row + reach + 1, column - reach : column + reach + 1]
            refined[k] = (columns * window).sum() / window.sum() / width, (rows * window).sum() / window.sum() / height
    return refined


def _is_same(one: Person, other: Person) -> bool:
    both = (one.visible > SURE) & (other.visible > SURE)
    if not both.any():
        return False
    size = max(np.ptp(each.body[each.visible > SURE], axis=0).max() for each in (one, other))
    return bool(np.linalg.norm(one.body[both] - other.body[both], axis=1).mean() < SAME * size)


def _hand(image: np.ndarray, person: Person, places: tuple[int, int, int]) -> np.ndarray | None:
    """The hand at a wrist, `(21, 2)`; None when it is not seen."""
    wrist, little, fore = person.body[list(places)]
    if person.visible[places[0]] < SURE:
        return None
    middle = (2 * fore + little) / 3
    reach = Square.between(middle, 2 * middle - wrist).scaled(2.7)
    if reach.side < SMALLEST_HAND:
        return None
    (ends,) = shipped_network("hand_recrop")(reach.cut(image, CROP_SIDE))
    center, end = reach.points(ends.numpy().reshape(2, 2) / CROP_SIDE)
    square = Square.between(center, end, -90).scaled(1, up=0.1)
    if square.side < SMALLEST_HAND:
        return None
    points, score = shipped_network("hand_landmark")(square.cut(image, HAND_SIDE))
    if float(score) < SURE:
        return None
    return square.points(points.numpy().reshape(21, 3)[:, :2] / HAND_SIDE)


def _face(image: np.ndarray, person: Person) -> np.ndarray | None:
    """The face, `(468, 2)`; None when it is not seen."""
    points = person.body[: 10 + 1]
    if person.visible[[NOSE, LEFT_EYE, RIGHT_EYE]].min() < SURE:
        return None
    square = _around(points, points[RIGHT_EYE], points[LEFT_EYE], 2.0)
    face = None
    for _ in range(2):
        rows, score = shipped_network("face_landmark")(square.cut(image, FACE_SIDE))
        if float(score.sigmoid()) < SURE:
            return face
        face = square.points(rows.numpy().reshape(468, 3)[:, :2] / FACE_SIDE)
        square = _around(face, face[FACE_EYES[0]], face[FACE_EYES[1]], 1.5)
    return face


def _around(points: np.ndarray, right_eye: np.ndarray, left_eye: np.ndarray, scale: float) -> Square:
    """The square around points, turned so that the eyes are level."""
    low, high = points.min(axis=0), points.max(axis=0)
    angle = Square.between(right_eye, left_eye, 0).angle
    center = (low + high) / 2
    return Square(float(center[0]), float(center[1]), float((high - low).max()) * scale, angle)
