"""A camera, a ball, and the formulas that the renderer is tested against."""

from __future__ import annotations

import numpy as np

from tether.datasets.synthetic.scenes import (
    CameraSpec,
    MannequinSpec,
    SceneSpec,
    SolidSpec,
)
from tether.datasets.synthetic.scenes.solids import Capsule, Cone, Cube, Cylinder, Solid, Sphere, Torus

Array = np.ndarray


SIZE = 128


CAMERA = CameraSpec(height=1.9, distance=5.3, pitch=0.17, half_view=0.32)


LIGHT = (0.6, 1.2, -0.7)


def scene_of(*solids: SolidSpec, mannequins: tuple[MannequinSpec, ...] = ()) -> SceneSpec:
    """These things on a white floor before a cyan background."""
    return SceneSpec(solids, mannequins, "white", "cyan", LIGHT, CAMERA)


def to_camera(points: Array, camera: CameraSpec = CAMERA) -> Array:
    """World points `(N, 3)` to (right, up, forward), written out from the camera's definition."""
    x, y, z = np.asarray(points, float).T
    y, z = y - camera.height, z + camera.distance
    c, s = np.cos(camera.pitch), np.sin(camera.pitch)
    return np.stack([x, c * y + s * z, c * z - s * y], axis=1)


def to_pixels(points: Array, camera: CameraSpec = CAMERA, size: int = SIZE) -> Array:
    """World points `(N, 3)` to x and y in pixels, `(N, 2)`."""
    right, up, forward = to_camera(points, camera).T
    scale = size / 2 / camera.half_view
    return np.stack([size / 2 + scale * right / forward, size / 2 - scale * up / forward], axis=1)


def directions(size: int = SIZE) -> Array:
    """Camera-space rays through the pixels' centers, `(size, size, 3)`, of depth 1."""
    grid = ((np.arange(size) + 0.5) / size * 2 - 1) * CAMERA.half_view
    right, down = np.meshgrid(grid, grid)
    return np.stack([right, -down, np.ones_like(right)], axis=-1)


def turned(p: Array, yaw: float) -> Array:
    c, s = np.cos(yaw), np.sin(yaw)
    return np.stack([c * p[:, 0] - s * p[:, 2], p[:, 1], s * p[:, 0] + c * p[:, 2]], axis=1)


def signed_distance(solid: Solid, p: Array) -> Array:
    """Below 0 inside the solid and 0 on its surface, for world points `(N, 3)`."""
    if isinstance(solid, Sphere):
        return np.linalg.norm(p - solid.center, axis=1) - solid.radius
    if isinstance(solid, Cube):
        return np.abs(turned(p - solid.center, solid.yaw)).max(axis=1) - solid.half
    if isinstance(solid, Torus):
        q = turned(p - solid.center, solid.yaw)
        return np.hypot(np.hypot(q[:, 0], q[:, 1]) - solid.major, q[:, 2]) - solid.minor
    if isinstance(solid, Capsule):
        axis = solid.b - solid.a
        share = np.clip((p - solid.a) @ axis / (axis @ axis), 0, 1)
        return np.linalg.norm(p - solid.a - share[:, None] * axis, axis=1) - solid.radius
    assert isinstance(solid, Cylinder | Cone)
    q = p - solid.base
    slope = (solid.radius - solid.top) / solid.height
    side = (np.hypot(q[:, 0], q[:, 2]) - solid.radius + slope * q[:, 1]) / np.hypot(1, slope)
    return np.maximum(side, np.maximum(-q[:, 1], q[:, 1] - solid.height))


BALL = SolidSpec("sphere", "red", "matte", 0.3, 0.2, 0.8, 0.0)
BALL_CENTER = np.array([[BALL.x, BALL.size, BALL.z]])
