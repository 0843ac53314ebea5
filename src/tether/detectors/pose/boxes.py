"""Where people are: the detector of BlazePose, over the whole image and parts of it.

It says for each of 2,254 anchors how probably somebody is there, where the head is, and four points; the first is the
middle of the hips, and the second as far from it as the body reaches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tether.detectors.graph import shipped_network
from tether.detectors.pose.square import Square

__all__ = ["Found", "find_boxes"]

SIDE = 224
GRIDS = ((28, 2), (14, 2), (7, 6))
"""Places a side, and anchors a place."""
SURE = 0.4
OVERLAP = 0.3
"""Heads that overlap more, by intersection over union, are one."""
PART = 0.6
"""Side of the parts, of the longer side of the image."""
LEAST_SIDE = 160
"""Parts of images smaller than this show nothing more."""


@dataclass(frozen=True)
class Found:
    """Somebody.

    Attributes:
        score: how sure the detector is.
        head: left, top, right, bottom in pixels.
        square: of the body.
    """

    score: float
    head: np.ndarray
    square: Square


def find_boxes(image: np.ndarray, most: int) -> list[Found]:
    """People in uint8 `(H, W, 3)`, at most so many, the surest first."""
    squares = _parts(*image.shape[:2])
    x = torch.cat([square.cut(image, SIDE) for square in squares]) * 2 - 1
    boxes, scores = shipped_network("pose_detection")(x)
    found = [
        one
        for square, rows, logits in zip(squares, boxes.numpy(), scores.numpy(), strict=True)
        for one in _decoded(square, rows, logits[:, 0])
    ]
    found.sort(key=lambda one: -one.score)
    kept: list[Found] = []
    for one in found:
        if all(_overlap(one.head, other.head) < OVERLAP for other in kept):
            kept.append(one)
    return kept[:most]


def _parts(height: int, width: int) -> list[Square]:
    """The whole image, and parts that overlap."""
    whole = Square(width / 2, height / 2, max(height, width))
    if min(height, width) < LEAST_SIDE:
        return [whole]
    side = PART * max(height, width)
    ys, xs = ([side / 2, long - side / 2] if long > side else [long / 2] for long in (height, width))
    return [whole, *(Square(x, y, side) for y in ys for x in xs)]


def _decoded(square: Square, rows: np.ndarray, logits: np.ndarray) -> list[Found]:
    """The sure ones of the detector's rows `(N, 12)`."""
    sure = np.flatnonzero(logits > np.log(SURE / (1 - SURE)))
    anchors = _anchors()[sure]
    found = []
    for row, anchor, logit in zip(rows[sure], anchors, logits[sure], strict=True):
        center, size = row[:2] / SIDE + anchor, row[2:4] / SIDE
        points = square.points(row[4:].reshape(4, 2) / SIDE + anchor)
        head = square.points(np.array([center - size / 2, center + size / 2])).ravel()
        body = Square.between(points[0], points[1]).scaled(1.25)
        found.append(Found(float(1 / (1 + np.exp(-logit))), head, body))
    return found


def _anchors() -> np.ndarray:
    """Where the anchors are, `(2254, 2)`, as shares of the image."""
    grids = []
    for side, count in GRIDS:
        middle = (np.arange(side) + 0.5) / side
        y, x = np.meshgrid(middle, middle, indexing="ij")
        grids.append(np.stack([x, y], axis=2).reshape(-1, 1, 2).repeat(count, axis=1).reshape(-1, 2))
    return np.concatenate(grids)


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = np.prod(np.maximum(high - low, 0))
    both = np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - shared
    return float(shared / both) if both > 0 else 0.0
