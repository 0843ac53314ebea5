"""Rays against the signed distances of the solids."""

from __future__ import annotations

import numpy as np
import pytest

from tether.datasets.synthetic.scenes.solids import Capsule, Cone, Cube, Cylinder, Solid, Sphere, Torus

from .geometry import (
    signed_distance,
)

PLACE = np.array([0.2, 0.7, 0.1], np.float32)


SOLIDS: list[Solid] = [
    Sphere(PLACE, 0.7),
    Cube(PLACE, 0.6, 0.5),
    Cylinder(PLACE - np.array([0, 0.7, 0], np.float32), 0.6, 1.5),
    Cone(PLACE - np.array([0, 0.7, 0], np.float32), 0.8, 1.6),
    Torus(PLACE, 0.55, 0.22, 0.6),
    Capsule(PLACE - np.array([0.3, 0.5, 0], np.float32), PLACE + np.array([0.2, 0.4, 0.3], np.float32), 0.25),
]


@pytest.mark.parametrize("solid", SOLIDS, ids=lambda s: type(s).__name__)
def test_a_ray_stops_at_the_first_point_of_the_solid_and_knows_the_normal_there(solid: Solid) -> None:
    rng = np.random.default_rng(0)
    count = 1500
    o = (PLACE + rng.normal(size=(count, 3)) * 0.3 + np.array([0, 1.0, -5.0])).astype(np.float32)
    d = (PLACE + rng.uniform(-1, 1, (count, 3)) - o).astype(np.float32)
    t, normals = solid.hit(o, d)
    hit = np.isfinite(t)
    assert 0.1 < hit.mean() < 0.95

    points = o[hit].astype(float) + t[hit, None] * d[hit].astype(float)
    assert np.abs(signed_distance(solid, points)).max() < 2e-3
    # Nothing of the solid lies before the hit, and nothing at all on a ray that misses.
    steps = np.linspace(0, 1, 160)
    last = np.where(hit, t, 2.0)
    nearest = np.min([signed_distance(solid, o + (last * k)[:, None] * d) for k in steps[:-1]], axis=0)
    assert nearest.min() > -5e-3

    # The normal is the gradient; at an edge, where the gradient jumps, it is either side's.
    h = 1e-4
    gradient = np.stack(
        [
            (signed_distance(solid, points + h * e) - signed_distance(solid, points - h * e)) / (2 * h)
            for e in np.eye(3)
        ],
        axis=1,
    )
    length = np.linalg.norm(gradient, axis=1)
    smooth = np.abs(length - 1) < 1e-3
    agreement = (gradient[smooth] / length[smooth, None] * normals[hit][smooth]).sum(axis=1)
    assert smooth.mean() > 0.9
    assert np.mean(agreement > 0.995) > 0.99
    assert (np.einsum("nk,nk->n", normals[hit], d[hit]) < 1e-3).all(), "normals face the ray"
