"""PCK@0.1: the share of wanted joints that are found near their places (Yang and Ramanan, 2013).

    correct: a joint of the same number lies within 0.1 max(height, width) of the figure's wanted joints

Joints are read from the drawings (`tether.kinds.openpose`): the middle of each patch of a joint's color. A figure is
what the drawing connects; a part of fewer than `LEAST` joints belongs to the nearest figure, and of a figure that shows
so little a joint may be `NEAR` pixels off. Each found joint serves
one wanted joint, the nearest first, and of each number as many are taken as there are wanted ones, so that a map full
of joints does not score.
"""

from __future__ import annotations

import cv2
import numpy as np

from tether.kinds.measures.measure import Numbers, Table
from tether.kinds.openpose import joint_masks

__all__ = ["correct_joints", "joints_of", "share_of_correct"]

SHARE = 0.1
LEAST = 4
NEAR = 4.0
"""Radius of a drawn joint."""
Places = dict[int, np.ndarray]


def joints_of(pixels: np.ndarray) -> Places:
    """The joints in a drawing, uint8 `(H, W, 3)`: number -> `(N, 2)`, x and y of each, the largest patch first."""
    found = {}
    for number, where in enumerate(joint_masks(pixels, without_limbs=True)):
        if where.any():
            found[number] = _middles(where)
    return found


def correct_joints(found: np.ndarray, wanted: np.ndarray) -> Numbers:
    """How many joints of a drawing are wanted, and how many of them are found; uint8 `(H, W, 3)` each."""
    there, places = joints_of(found), joints_of(wanted)
    reach = _reaches(wanted, places)
    correct = sum(
        _matches(there.get(number, np.zeros((0, 2)))[: len(here)], here, reach[number])
        for number, here in places.items()
    )
    return {"correct": float(correct), "wanted": float(sum(map(len, places.values())))}


def share_of_correct(table: Table) -> float:
    """Correct joints by wanted joints, over all pictures; 1 when none is wanted."""
    wanted = table["wanted"].sum()
    return float(table["correct"].sum() / wanted) if wanted else 1.0


def _middles(where: np.ndarray) -> np.ndarray:
    """The middles of the patches in bool `(H, W)`, `(N, 2)`; what a joint on top has cut apart is one patch."""
    near = cv2.dilate(where.astype(np.uint8), np.ones((5, 5), np.uint8))
    count, labels = cv2.connectedComponents(near, connectivity=8)
    patches = [np.argwhere(where & (np.asarray(labels) == label)) for label in range(1, count)]
    patches.sort(key=len, reverse=True)
    return np.array([patch.mean(axis=0)[::-1] for patch in patches])


def _matches(found: np.ndarray, wanted: np.ndarray, reach: np.ndarray) -> int:
    """How many of `wanted` `(N, 2)` have one of `found` `(M, 2)` of their own within `reach` `(N,)`."""
    distances = np.linalg.norm(wanted[:, None] - found[None], axis=2)
    distances[distances > reach[:, None]] = np.inf
    count = 0
    while distances.size and np.isfinite(distances.min()):
        row, column = np.unravel_index(distances.argmin(), distances.shape)
        distances[row], distances[:, column] = np.inf, np.inf
        count += 1
    return count


def _reaches(pixels: np.ndarray, places: Places) -> dict[int, np.ndarray]:
    """For each wanted joint how far away it may be found, in pixels."""
    listed = [(number, place) for number, many in places.items() for place in many]
    points = np.array([place for _, place in listed]).reshape(-1, 2)
    figures = _figures(pixels, points)
    reach = {one: _reach(points[figures == one]) for one in set(figures.tolist())}
    found: dict[int, list[float]] = {}
    for (number, _), figure in zip(listed, figures.tolist(), strict=True):
        found.setdefault(number, []).append(reach[figure])
    return {number: np.array(many) for number, many in found.items()}


def _reach(joints: np.ndarray) -> float:
    """How far away a joint of a figure `(N, 2)` may be found, in pixels."""
    reach = SHARE * float(max(np.ptp(joints, axis=0)))
    return max(reach, NEAR) if len(joints) < LEAST else reach


def _figures(pixels: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The figure that each joint `(N, 2)` belongs to, `(N,)`."""
    drawn = cv2.dilate(np.asarray(pixels.any(axis=2), np.uint8), np.ones((3, 3), np.uint8))
    labels = np.asarray(cv2.connectedComponents(drawn)[1])
    parts = labels[points[:, 1].round().astype(int), points[:, 0].round().astype(int)]
    names, counts = np.unique(parts, return_counts=True)
    large = names[counts >= LEAST]
    if not len(large):
        return np.zeros_like(parts)
    whole = np.isin(parts, large)
    for k in np.flatnonzero(~whole):
        parts[k] = parts[whole][np.linalg.norm(points[whole] - points[k], axis=1).argmin()]
    return parts
