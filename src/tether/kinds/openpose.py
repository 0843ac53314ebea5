"""Poses of bodies as OpenPose (1812.08008) draws them, one color a limb, on black.

The drawing is that of ControlNet 1.1 (`draw_bodypose`): 17 limbs, and on their ends the 18 joints of COCO, which have
the same colors at full brightness. Each color says left or right. Fingers are lines of the colors of the rainbow with
blue joints, faces are white points.

"holistic" finds people by `tether.detectors.pose`, whose weights are shipped, and draws them (`tether.kinds.skeleton`).
No people, no lines: the map is black. People of less than a tenth of the image's height are missed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.kinds.kind import Annotator, Kind, mirror
from tether.kinds.measures import POSE
from tether.kinds.option import Option

if TYPE_CHECKING:
    import numpy as np

__all__ = ["IMITATED", "JOINT_COLORS", "JOINT_PAIRS", "KIND", "LIMBS", "LIMB_COLORS", "detect", "flip", "joint_masks"]

OPTIONS = {
    "hands": Option(1, 0, 1, "1 draws hands, 0 does not"),
    "face": Option(1, 0, 1, "1 draws faces, 0 does not"),
}
JOINT_COLORS = (
    (255, 0, 0),
    (255, 85, 0),
    (255, 170, 0),
    (255, 255, 0),
    (170, 255, 0),
    (85, 255, 0),
    (0, 255, 0),
    (0, 255, 85),
    (0, 255, 170),
    (0, 255, 255),
    (0, 170, 255),
    (0, 85, 255),
    (0, 0, 255),
    (85, 0, 255),
    (170, 0, 255),
    (255, 0, 255),
    (255, 0, 170),
    (255, 0, 85),
)
"""RGB of joint k."""
LIMB_COLORS = tuple((int(0.6 * r), int(0.6 * g), int(0.6 * b)) for r, g, b in JOINT_COLORS[:17])
"""RGB of limb k: the color of joint k at 60% brightness."""
LIMBS = (
    (1, 2),
    (1, 5),
    (2, 3),
    (3, 4),
    (5, 6),
    (6, 7),
    (1, 8),
    (8, 9),
    (9, 10),
    (1, 11),
    (11, 12),
    (12, 13),
    (1, 0),
    (0, 14),
    (14, 16),
    (0, 15),
    (15, 17),
)
"""The joints of COCO that limb k connects: 0 nose, 1 neck, then the right arm, ..."""
JOINT_PAIRS = ((2, 5), (3, 6), (4, 7), (8, 11), (9, 12), (10, 13), (14, 15), (16, 17))
"""Right and left: shoulder, elbow, wrist, hip, knee, ankle, eye, ear."""
LIMB_PAIRS = ((0, 1), (2, 4), (3, 5), (6, 9), (7, 10), (8, 11), (13, 15), (14, 16))
IMITATED = {
    0: (12, 13, 15),
    1: (0, 1, 6, 9, 12),
    **dict.fromkeys((8, 11), (6, 7, 9, 10)),
    **dict.fromkeys((9, 12), (7, 8, 10, 11)),
    **dict.fromkeys((10, 13), (8, 11)),
    **dict.fromkeys((16, 17), (14, 16)),
}
"""The joints whose colors, within `TOLERANCE`, the drawings of hands use too, and those of the other side; and the
limbs that end there, of both sides, so that a map that is flipped twice is the map."""
TOLERANCE = 16
"""Largest difference of a channel to a color of the table: of a map that was saved as JPEG, say."""
REACH, SIDE = 17, 512
"""Pixels, the diameter in which every pixel of a joint has a limb, of a map with that shorter side or a smaller one."""


def detect(pixels: np.ndarray, hands: float, face: float) -> np.ndarray:
    """The poses of the people in an image as a condition map, uint8 `(H, W, 3)`; black when there are none."""
    from tether.detectors.pose import find_people
    from tether.kinds.skeleton import draw_people

    return draw_people(find_people(pixels, hands=hands >= 0.5, face=face >= 0.5), *pixels.shape[:2])


def flip(pixels: np.ndarray) -> np.ndarray:
    """The map `(H, W, 3)` of the mirrored pose: mirrored, with the colors of left and right exchanged.

    Hands and faces keep their colors, which do not say left or right.
    """
    flipped = mirror(pixels).copy()
    joints, limbs = joint_masks(flipped), [_is_color(flipped, color) for color in LIMB_COLORS]
    for pairs, found, colors in ((JOINT_PAIRS, joints, JOINT_COLORS), (LIMB_PAIRS, limbs, LIMB_COLORS)):
        for right, left in pairs:
            flipped[found[right]], flipped[found[left]] = colors[left], colors[right]
    return flipped


def joint_masks(pixels: np.ndarray, *, without_limbs: bool = False) -> list[np.ndarray]:
    """Where a map `(H, W, 3)` has joint k, bool `(H, W)`. What a hand draws in a joint's color is near no limb.

    Args:
        pixels: the map.
        without_limbs: whether a map without any limb is one of joints alone; by default it is one of hands and faces.
    """
    import numpy as np

    joints = [_is_color(pixels, color) for color in JOINT_COLORS]
    limbs = [_is_color(pixels, color) for color in LIMB_COLORS]
    if without_limbs and not any(limb.any() for limb in limbs):
        return joints
    for joint, ends in IMITATED.items():
        if joints[joint].any():
            joints[joint] &= _near(np.logical_or.reduce([limbs[end] for end in ends]))
    return joints


def _is_color(pixels: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Where `(H, W, 3)` has a color, bool `(H, W)`."""
    import numpy as np

    return np.asarray((np.abs(pixels.astype(np.int16) - color) <= TOLERANCE).all(axis=2))


def _near(where: np.ndarray) -> np.ndarray:
    """True near the true pixels of `(H, W)`."""
    import cv2

    reach = round(REACH * max(1, min(where.shape) / SIDE))
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    return cv2.dilate(where.astype("uint8"), pen) > 0


KIND = Kind(
    "openpose",
    "poses of bodies, one color a limb",
    annotators={"holistic": Annotator(detect, OPTIONS)},
    resize="lines",
    flip=flip,
    measures=POSE,
    names=r"(open|dw)?pose",
    aliases=("pose",),
)
