"""Renders a scene by casting one ray a sample: color with shadows, and the exact geometry.

Shading is Lambert's, k_a + k_d max(0, n·l) in shadowless light, plus a Blinn-Phong highlight for shiny solids. A ray is
tested against a solid only inside the screen rectangle of the solid's bounding sphere.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from tether.datasets.synthetic.scenes.mannequin import joints, limbs
from tether.datasets.synthetic.scenes.solids import Cone, Cube, Cylinder, Solid, Sphere, Torus
from tether.datasets.synthetic.scenes.spec import COLORS, CameraSpec, SceneSpec, SolidSpec

__all__ = ["CLASS_NAMES", "Scene", "instances", "project", "render", "solid_of"]

CLASS_NAMES = ("background", "floor", "sphere", "cube", "cylinder", "cone", "torus", "mannequin")
FLOOR_END = 9.0
"""Distance from the origin at which the floor ends and the background begins."""
Array = np.ndarray


@dataclass(frozen=True)
class Scene:
    """A rendered scene.

    Attributes:
        image: uint8 `(H, W, 3)` RGB.
        depth: float32 `(H, W)`, distance along the camera's axis; inf for the background.
        normals: float32 `(H, W, 3)`, unit vectors in camera space (x right, y up, z into the scene, so
            a surface that faces the camera has z < 0); 0 for the background.
        instance: int32 `(H, W)`: 0 background, 1 floor, 2 + k for `spec.objects[k]`.
        classes: int32 `(H, W)`: indices into `CLASS_NAMES`.
        keypoints: one float32 `(18, 3)` a mannequin: x, y in pixels and 1 if the joint is inside the image and
            no other object hides it; order as `mannequin.JOINTS`.
        spec: what was rendered.
    """

    image: Array
    depth: Array
    normals: Array
    instance: Array
    classes: Array
    keypoints: list[Array]
    spec: SceneSpec = field(repr=False)


def _axes(camera: CameraSpec) -> tuple[Array, Array]:
    """The camera's position and its axes (right, up, forward) as rows."""
    c, s = np.cos(camera.pitch), np.sin(camera.pitch)
    position = np.array([0, camera.height, -camera.distance], np.float32)
    return position, np.array([[1, 0, 0], [0, c, s], [0, -s, c]], np.float32)


def project(points: Array, camera: CameraSpec, size: int) -> Array:
    """World points `(N, 3)` -> `(N, 3)`: x and y in pixels (0, 0 is the outer corner), and depth along the axis."""
    position, axes = _axes(camera)
    local = (np.asarray(points, np.float32) - position) @ axes.T
    scale = size / 2 / camera.half_view / np.maximum(local[:, 2], 1e-6)
    return np.stack([size / 2 + local[:, 0] * scale, size / 2 - local[:, 1] * scale, local[:, 2]], axis=1)


def solid_of(spec: SolidSpec) -> Solid:
    """The surface of a solid's spec, standing on the floor."""
    s = spec.size
    if spec.shape == "sphere":
        return Sphere(np.array([spec.x, s, spec.z], np.float32), s)
    if spec.shape == "cube":
        half = s * 0.86
        return Cube(np.array([spec.x, half, spec.z], np.float32), half, spec.yaw)
    if spec.shape == "cylinder":
        return Cylinder(np.array([spec.x, 0, spec.z], np.float32), s * 0.8, s * 2.0)
    if spec.shape == "cone":
        return Cone(np.array([spec.x, 0, spec.z], np.float32), s * 0.95, s * 2.1)
    minor = s * 0.3
    return Torus(np.array([spec.x, s, spec.z], np.float32), s - minor, minor, spec.yaw)


def _rectangle(solid: Solid, camera: CameraSpec, size: int) -> tuple[int, int, int, int]:
    """Pixel bounds (top, bottom, left, right) of the solid's bounding sphere on the screen."""
    center, radius = solid.bound
    x, y, depth = project(center[None], camera, size)[0]
    if depth <= radius:
        return 0, size, 0, size
    # The silhouette of a sphere off the axis reaches a little further than radius / depth.
    reach = size / 2 / camera.half_view * radius / np.sqrt(depth**2 - radius**2)
    reach *= np.hypot(1, np.hypot(x - size / 2, y - size / 2) * camera.half_view / (size / 2)) + 0.02
    bounds = np.array([y - reach, y + reach + 1, x - reach, x + reach + 1])
    top, bottom, left, right = np.clip(bounds, 0, size).astype(int)
    return top, bottom, left, right


def render(spec: SceneSpec, size: int = 128, samples: int = 2) -> Scene:
    """Renders a scene.

    Args:
        spec: the scene.
        size: side of the image in pixels.
        samples: rays along each side of a pixel for the color; the geometry is that of the pixels' centers.
    """
    surfaces = _surfaces(spec)
    image, *_ = _trace(spec, surfaces, size * samples, shaded=True)
    color = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) if samples > 1 else image
    _, depth, normals, instance = _trace(spec, surfaces, size, shaded=False)
    shapes = [CLASS_NAMES.index(o.shape if isinstance(o, SolidSpec) else "mannequin") for o in spec.objects]
    classes = np.array([0, 1, *shapes], np.int32)[instance]
    keypoints = [_keypoints(spec, k, depth, instance) for k in range(len(spec.mannequins))]
    pixels = np.clip(color * 255 + 0.5, 0, 255).astype(np.uint8)
    return Scene(pixels, depth, normals, instance, classes, keypoints, spec)


def instances(spec: SceneSpec, size: int) -> Array:
    """Only the instance numbers of a scene, int32 `(size, size)`; much cheaper than `render`."""
    return _trace(spec, _surfaces(spec), size, shaded=False)[3]


def _surfaces(spec: SceneSpec) -> list[tuple[int, Solid]]:
    """Every surface, with the index of its object."""
    things = enumerate(spec.objects)
    return [(k, s) for k, o in things for s in ([solid_of(o)] if isinstance(o, SolidSpec) else limbs(o))]


def _trace(
    spec: SceneSpec, surfaces: list[tuple[int, Solid]], size: int, shaded: bool
) -> tuple[Array, Array, Array, Array]:
    """Color `(H, W, 3)` in [0, 1] (zeros when not shaded), depth, camera-space normals and instance numbers."""
    camera = spec.camera
    position, axes = _axes(camera)
    grid = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1) * camera.half_view
    u, v = np.meshgrid(grid, -grid)
    # Directions have length 1 along the camera's axis, so that t is the depth.
    rays = (np.stack([u, v, np.ones_like(u)], axis=-1) @ axes).astype(np.float32)

    depth = np.full((size, size), np.inf, np.float32)
    normals = np.zeros((size, size, 3), np.float32)
    instance = np.zeros((size, size), np.int32)
    with np.errstate(divide="ignore"):
        floor = np.where(rays[..., 1] < -1e-6, -position[1] / rays[..., 1], np.inf).astype(np.float32)
    on_floor = floor * rays[..., 2] + position[2] < FLOOR_END
    depth[on_floor], normals[on_floor], instance[on_floor] = floor[on_floor], (0, 1, 0), 1
    for k, solid in surfaces:
        top, bottom, left, right = _rectangle(solid, camera, size)
        if top >= bottom or left >= right:
            continue
        window = (slice(top, bottom), slice(left, right))
        d = rays[window].reshape(-1, 3)
        t, n = solid.hit(np.broadcast_to(position, d.shape), d)
        t, n = t.reshape(bottom - top, right - left), n.reshape(bottom - top, right - left, 3)
        closer = t < depth[window]
        depth[window][closer], normals[window][closer] = t[closer], n[closer]
        instance[window][closer] = k + 2
    if not shaded:
        return np.zeros((0, 0, 3), np.float32), depth, normals @ axes.T, instance
    return _shade(spec, surfaces, position, rays, depth, normals, instance), depth, normals, instance


def _shade(
    spec: SceneSpec,
    surfaces: list[tuple[int, Solid]],
    position: Array,
    rays: Array,
    depth: Array,
    normals: Array,
    instance: Array,
) -> Array:
    """The color of each sample, `(H, W, 3)` in [0, 1]."""
    palette = {name: np.array(rgb, np.float32) / 255 for name, rgb in COLORS.items()}
    objects = spec.objects
    albedos = np.stack([palette[name] for name in (spec.background, spec.floor, *(o.color for o in objects))])
    color = albedos[instance]
    hit = instance > 0
    light = np.array(spec.light, np.float32)
    light /= np.linalg.norm(light)
    points = position + depth[hit, None] * rays[hit]
    surface = instance[hit]
    n = normals[hit]
    lambert = np.maximum(n @ light, 0)
    lambert *= _lit(points + 2e-3 * n, lambert > 0, surface, light, surfaces)
    base = color[hit]
    for k, thing in enumerate(objects):
        mine = surface == k + 2
        if thing.material == "checkered" and mine.any():
            base[mine] = _checkered(points[mine] - np.array([thing.x, 0, thing.z], np.float32), base[mine])
    shade = base * (0.48 + 0.56 * lambert)[:, None]
    shiny = np.array([False, False, *(o.material == "shiny" for o in objects)])[surface]
    if shiny.any():
        view = -rays[hit][shiny]
        half = view / np.linalg.norm(view, axis=1, keepdims=True) + light
        half /= np.linalg.norm(half, axis=1, keepdims=True)
        glint = np.maximum(np.einsum("nk,nk->n", half, n[shiny]), 0) ** 40 * (lambert[shiny] > 0)
        shade[shiny] += 0.75 * glint[:, None]
    color[hit] = shade
    return np.clip(color, 0, 1)


def _lit(points: Array, facing: Array, surface: Array, light: Array, surfaces: list[tuple[int, Solid]]) -> Array:
    """1 for points `(N, 3)` in the light, 0 in shadow."""
    lit = np.ones(len(points), np.float32)
    open_to_light = np.flatnonzero(facing)
    for _, solid in surfaces:
        center, radius = solid.bound
        to = center - points[open_to_light]
        along = to @ light
        near = (np.einsum("nk,nk->n", to, to) - along**2 < radius**2) & (along > -radius)
        candidates = open_to_light[near]
        if len(candidates):
            t, _ = solid.hit(points[candidates], np.broadcast_to(light, (len(candidates), 3)))
            lit[candidates[np.isfinite(t)]] = 0
            open_to_light = np.flatnonzero(facing & (lit > 0))
    return lit


def _checkered(local: Array, base: Array) -> Array:
    """Squares of the color and of the color mixed with white (with black, if it is white itself)."""
    squares = np.floor(local / 0.22 + 100.5).sum(axis=1).astype(int) % 2 == 1
    other = np.float32(0.25) if base[0].mean() > 0.9 else np.float32(1.0)
    result = base.copy()
    result[squares] = 0.25 * base[squares] + 0.75 * other
    return result


def _keypoints(spec: SceneSpec, index: int, depth: Array, instance: Array) -> Array:
    """Projected joints of mannequin `index` and whether each is visible, `(18, 3)`."""
    size = len(depth)
    mannequin = spec.mannequins[index]
    projected = project(joints(mannequin), spec.camera, size)
    number = 2 + len(spec.solids) + index
    columns, rows = np.floor(projected[:, 0]).astype(int), np.floor(projected[:, 1]).astype(int)
    inside = (columns >= 0) & (columns < size) & (rows >= 0) & (rows < size)
    seen = np.zeros(18, np.float32)
    # A joint lies inside its limb: it counts as visible if the surface in front of it is the mannequin's own.
    seen[inside] = instance[rows[inside], columns[inside]] == number
    return np.stack([projected[:, 0], projected[:, 1], seen], axis=1).astype(np.float32)
