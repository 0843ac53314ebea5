"""Exact condition maps of a rendered scene, in the conventions of the published ControlNets (1.0: 2302.05543; 1.1).

Each map is uint8 `(H, W, 3)` RGB, computed from the geometry at the centers of the pixels, without an annotator.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from tether.datasets.synthetic.scenes.render import CLASS_NAMES, Scene
from tether.kinds.openpose import JOINT_COLORS, LIMB_COLORS, LIMBS

__all__ = ["CLASS_COLORS", "LIMBS", "MAPS", "depth_map", "normal_map", "pose_map", "seg_map"]

Array = np.ndarray

CLASS_COLORS: dict[str, tuple[int, int, int]] = {
    "background": (120, 120, 120),
    "floor": (80, 50, 50),
    "sphere": (61, 230, 250),
    "cube": (224, 5, 255),
    "cylinder": (235, 255, 7),
    "cone": (4, 250, 7),
    "torus": (0, 102, 200),
    "mannequin": (150, 5, 61),
}
"""RGB of each class, from the ADE20K palette that segmentation controls use: background is its wall, floor its floor,
mannequin its person. ADE20K has no classes for the solids: they have the colors of its water, cabinet, sidewalk, grass
and car, which are far apart."""

STICK_WIDTH = 4 / 512
"""Radius of a joint, and half the width of a limb, as a share of the image's side."""
SHIFT = 4
"""OpenCV draws at 1/16 of a pixel."""


def depth_map(scene: Scene) -> Array:
    """Depth as brightness, near is bright: 255 d_min / d (inverse depth, as MiDaS predicts it); the background is 0."""
    nearest = scene.depth.min()
    levels = np.zeros_like(scene.depth) if np.isinf(nearest) else nearest / scene.depth
    return _gray(np.floor(levels * 255 + 0.5).astype(np.uint8))


def normal_map(scene: Scene) -> Array:
    """Normals (x right, y up, z to the viewer) as 255 (n + 1) / 2; the background faces the viewer."""
    normals = scene.normals * np.array([1, 1, -1], np.float32)  # the scene's z points away from the viewer
    normals = np.where((scene.instance == 0)[..., None], np.array([0, 0, 1], np.float32), normals)
    return np.floor(np.clip((normals + 1) / 2, 0, 1) * 255 + 0.5).astype(np.uint8)


def seg_map(scene: Scene) -> Array:
    """Classes as the colors of `CLASS_COLORS`."""
    return np.array([CLASS_COLORS[name] for name in CLASS_NAMES], np.uint8)[scene.classes]


def pose_map(scene: Scene) -> Array:
    """The mannequins' visible joints and the limbs between them, drawn as OpenPose's on black."""
    size = len(scene.depth)
    canvas = np.zeros((size, size, 3), np.uint8)
    for keypoints in scene.keypoints:
        _draw_pose(canvas, keypoints)
    return canvas


def _draw_pose(canvas: Array, keypoints: Array) -> None:
    """Draws one skeleton, `(18, 3)`: x and y in pixels (0, 0 is the outer corner), and 1 if the joint is visible."""
    radius = max(1.0, STICK_WIDTH * len(canvas))
    places = keypoints[:, :2] - 0.5  # OpenCV's 0, 0 is the center of the first pixel
    for (start, end), color in zip(LIMBS, LIMB_COLORS, strict=True):
        if keypoints[start, 2] and keypoints[end, 2]:
            _draw_limb(canvas, places[start], places[end], radius, color)
    for place, seen, color in zip(places, keypoints[:, 2], JOINT_COLORS, strict=True):
        if seen:
            center = [round(float(value) * 2**SHIFT) for value in place]
            cv2.circle(canvas, center, round(radius * 2**SHIFT), color, -1, cv2.LINE_8, SHIFT)


def _draw_limb(canvas: Array, start: Array, end: Array, radius: float, color: tuple[int, ...]) -> None:
    """An ellipse from joint to joint, `2 radius` wide."""
    across = end - start
    length, angle = float(np.hypot(*across)), float(np.degrees(np.arctan2(across[1], across[0])))
    center = [round(float(value) * 2**SHIFT) for value in (start + end) / 2]
    axes = [round(length / 2 * 2**SHIFT), round(radius * 2**SHIFT)]
    cv2.ellipse(canvas, center, axes, angle, 0, 360, color, -1, cv2.LINE_8, SHIFT)


def _gray(levels: Array) -> Array:
    """`(H, W)` -> `(H, W, 3)`."""
    return levels[..., None].repeat(3, axis=2)


MAPS: dict[str, Callable[[Scene], Array]] = {
    "depth": depth_map,
    "normal": normal_map,
    "seg": seg_map,
    "openpose": pose_map,
}
"""The exact maps of a scene, by kind of condition."""
