"""Ray-solid intersection: the smallest t > 0 with o + t d on the surface, and the outward normal there.

Rays are float32 arrays `(N, 3)`; directions need not be unit vectors. A miss has t = inf. Solids are in world
coordinates (x right, y up, z away from the camera) and have a bounding sphere, for culling.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

__all__ = ["Capsule", "Cone", "Cube", "Cylinder", "Solid", "Sphere", "Torus"]

Array = np.ndarray
EPSILON = 1e-4


class Solid(Protocol):
    """A surface that rays can hit."""

    @property
    def bound(self) -> tuple[Array, float]:
        """Center `(3,)` and radius of its bounding sphere."""
        ...

    def hit(self, o: Array, d: Array) -> tuple[Array, Array]:
        """Distances `(N,)`, inf for a miss, and unit normals `(N, 3)` for origins and directions `(N, 3)`."""
        ...


def _unit(v: Array) -> Array:
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9)


def _dot(a: Array, b: Array) -> Array:
    return np.einsum("...k,...k->...", a, b)


def _nearest_root(a: Array, b: Array, c: Array) -> Array:
    """The smaller positive root of a t² + 2 b t + c; inf if there is none."""
    disc = b * b - a * c
    root = np.sqrt(np.maximum(disc, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        near, far = (-b - root) / a, (-b + root) / a
    t = np.where(near > EPSILON, near, far)
    return np.where((disc > 0) & (t > EPSILON), t, np.inf).astype(np.float32)


def _at(o: Array, d: Array, t: Array) -> Array:
    return o + np.where(np.isfinite(t), t, 0)[:, None] * d


@dataclass(frozen=True)
class Sphere:
    """|p - center| = radius."""

    center: Array
    radius: float

    @property
    def bound(self) -> tuple[Array, float]:
        return self.center, self.radius

    def hit(self, o: Array, d: Array) -> tuple[Array, Array]:
        m = o - self.center
        t = _nearest_root(_dot(d, d), _dot(m, d), _dot(m, m) - self.radius**2)
        return t, _unit(_at(o, d, t) - self.center)


@dataclass(frozen=True)
class Cube:
    """A cube of half side `half` about `center`, turned by `yaw` radians about the vertical."""

    center: Array
    half: float
    yaw: float

    @property
    def bound(self) -> tuple[Array, float]:
        return self.center, self.half * 3**0.5

    def _turn(self) -> Array:
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]], np.float32)

    def hit(self, o: Array, d: Array) -> tuple[Array, Array]:
        turn = self._turn()
        local_o, local_d = (o - self.center) @ turn.T, d @ turn.T
        inverse = 1 / np.where(np.abs(local_d) < 1e-9, 1e-9, local_d)
        a, b = (-self.half - local_o) * inverse, (self.half - local_o) * inverse
        enter, leave = np.minimum(a, b), np.maximum(a, b)
        near, far = enter.max(axis=1), leave.min(axis=1)
        t = np.where(near > EPSILON, near, far)
        t = np.where((near <= far) & (t > EPSILON), t, np.inf).astype(np.float32)
        local = _at(local_o, local_d, t)
        axis = np.abs(local).argmax(axis=1)
        normal = np.zeros_like(local)
        rows = np.arange(len(local))
        normal[rows, axis] = np.sign(local[rows, axis])
        return t, normal @ turn


@dataclass(frozen=True)
class _Round:
    """Cylinder or cone: standing on `base`, `height` tall, with `radius` at the bottom and `top` at the top."""

    base: Array
    radius: float
    height: float
    top: float = field(init=False, default=0.0)

    @property
    def bound(self) -> tuple[Array, float]:
        return self.base + np.array([0, self.height / 2, 0], np.float32), float(np.hypot(self.radius, self.height / 2))

    def hit(self, o: Array, d: Array) -> tuple[Array, Array]:
        # Side: x² + z² = (r - k y)², with k the radius lost per unit of height.
        k = (self.radius - self.top) / self.height
        p = o - self.base
        r = self.radius - k * p[:, 1]
        flat_d, flat_p = d[:, [0, 2]], p[:, [0, 2]]
        a = _dot(flat_d, flat_d) - (k * d[:, 1]) ** 2
        b = _dot(flat_p, flat_d) + k * d[:, 1] * r
        c = _dot(flat_p, flat_p) - r * r
        disc = np.sqrt(np.maximum(b * b - a * c, 0))
        best = np.full(len(o), np.inf, np.float32)
        normal = np.zeros_like(p)
        with np.errstate(divide="ignore", invalid="ignore"):
            for t in ((-b - disc) / a, (-b + disc) / a):
                y = p[:, 1] + t * d[:, 1]
                inside = (b * b > a * c) & (t > EPSILON) & (y >= 0) & (y <= self.height) & (t < best)
                best = np.where(inside, t, best).astype(np.float32)
            q = _at(p, d, best)
            side = np.stack([q[:, 0], k * (self.radius - k * q[:, 1]), q[:, 2]], axis=1)
            normal = _unit(side)
            for y, radius, up in ((0.0, self.radius, -1.0), (self.height, self.top, 1.0)):
                t = (y - p[:, 1]) / d[:, 1]
                x, z = p[:, 0] + t * d[:, 0], p[:, 2] + t * d[:, 2]
                inside = (t > EPSILON) & (x * x + z * z <= radius * radius) & (t < best)
                best = np.where(inside, t, best).astype(np.float32)
                normal[inside] = (0, up, 0)
        return best, normal


@dataclass(frozen=True)
class Cylinder(_Round):
    """An upright cylinder."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "top", self.radius)


@dataclass(frozen=True)
class Cone(_Round):
    """An upright cone."""


@dataclass(frozen=True)
class Torus:
    """A ring about `center`: (sqrt(x² + y²) - major)² + z² = minor², its axis turned by `yaw` about the vertical."""

    center: Array
    major: float
    minor: float
    yaw: float

    @property
    def bound(self) -> tuple[Array, float]:
        return self.center, self.major + self.minor

    def hit(self, o: Array, d: Array) -> tuple[Array, Array]:
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        turn = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]], np.float32)
        length = np.linalg.norm(d, axis=1)
        p, v = (o - self.center) @ turn.T, (d / length[:, None]) @ turn.T
        # March from the bounding sphere by the distance to the ring, which never oversteps.
        reach = self.major + self.minor + 1e-3
        b, c0 = _dot(p, v), _dot(p, p) - reach * reach
        disc = b * b - c0
        root = np.sqrt(np.maximum(disc, 0))
        t, leave = np.maximum(-b - root, 0.0), -b + root
        alive = np.flatnonzero((disc > 0) & (leave > EPSILON))
        found = np.full(len(o), np.inf, np.float32)
        t = t[alive] + np.where(t[alive] == 0, EPSILON * 20, 0)
        for _ in range(48):
            q = p[alive] + t[:, None] * v[alive]
            ring = np.hypot(q[:, 0], q[:, 1]) - self.major
            distance = np.hypot(ring, q[:, 2]) - self.minor
            close = distance < 2e-4
            found[alive[close]] = t[close]
            t = t + distance
            keep = ~close & (t < leave[alive])
            alive, t = alive[keep], t[keep]
            if not len(alive):
                break
        q = p + np.where(np.isfinite(found), found, 0)[:, None] * v
        across = np.maximum(np.hypot(q[:, 0], q[:, 1]), 1e-6)
        ring = 1 - self.major / across
        normal = _unit(np.stack([q[:, 0] * ring, q[:, 1] * ring, q[:, 2]], axis=1)) @ turn
        return (found / length).astype(np.float32), normal


@dataclass(frozen=True)
class Capsule:
    """All points at `radius` from the segment a-b."""

    a: Array
    b: Array
    radius: float

    @property
    def bound(self) -> tuple[Array, float]:
        return (self.a + self.b) / 2, float(np.linalg.norm(self.b - self.a)) / 2 + self.radius

    def hit(self, o: Array, d: Array) -> tuple[Array, Array]:
        axis = self.b - self.a
        m = o - self.a
        length2 = float(axis @ axis) + 1e-12
        axis_d, axis_m = d @ axis, m @ axis
        a = length2 * _dot(d, d) - axis_d**2
        b = length2 * _dot(m, d) - axis_m * axis_d
        c = length2 * _dot(m, m) - axis_m**2 - self.radius**2 * length2
        t = _nearest_root(a, b, c)
        along = axis_m + np.where(np.isfinite(t), t, 0) * axis_d
        t = np.where((along > 0) & (along < length2), t, np.inf)
        for end in (self.a, self.b):
            t = np.minimum(t, Sphere(end, self.radius).hit(o, d)[0])
        p = _at(o, d, t)
        along = np.clip((p - self.a) @ axis / length2, 0, 1)
        return t.astype(np.float32), _unit(p - self.a - along[:, None] * axis)
