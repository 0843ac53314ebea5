"""The ray tracer against the formulas of the shapes it draws."""

from __future__ import annotations

import numpy as np
import pytest

from tether.datasets.synthetic.scenes import (
    Scene,
    SolidSpec,
    render,
    sample_scene,
)

from .geometry import (
    BALL,
    BALL_CENTER,
    CAMERA,
    LIGHT,
    SIZE,
    directions,
    scene_of,
    to_camera,
    to_pixels,
)


@pytest.fixture(scope="module")
def ball() -> Scene:
    return render(scene_of(BALL), SIZE)


def test_depth_and_normals_of_a_sphere_are_those_of_the_formula(ball: Scene) -> None:
    center = to_camera(BALL_CENTER)[0]
    u, v = to_pixels(BALL_CENTER)[0].astype(int)
    for column, row in ((u, v), (u - 9, v + 6), (u + 12, v - 4), (u + 3, v + 14)):
        d = directions()[row, column]
        a, b, c = d @ d, -2 * d @ center, center @ center - BALL.size**2
        depth = (-b - np.sqrt(b * b - 4 * a * c)) / (2 * a)
        assert ball.instance[row, column] == 2
        assert ball.depth[row, column] == pytest.approx(depth, abs=1e-3)
        np.testing.assert_allclose(ball.normals[row, column], (depth * d - center) / BALL.size, atol=3e-3)


def test_a_sphere_covers_the_ellipse_that_a_pinhole_camera_sees(ball: Scene) -> None:
    # A cone of half angle alpha, tilted by theta from the axis, cuts the plane of depth 1 in an ellipse of area
    # pi cos(alpha) sin(alpha)^2 / (cos(alpha)^2 - sin(theta)^2)^(3/2).
    center = to_camera(BALL_CENTER)[0]
    distance = np.linalg.norm(center)
    sin_alpha, cos_theta = BALL.size / distance, center[2] / distance
    spread = (1 - sin_alpha**2) - (1 - cos_theta**2)
    area = np.pi * np.sqrt(1 - sin_alpha**2) * sin_alpha**2 / spread**1.5
    pixels = area * (SIZE / 2 / CAMERA.half_view) ** 2
    assert (ball.instance == 2).sum() == pytest.approx(pixels, rel=0.01)


def test_floor_depth_is_that_of_the_plane_and_the_background_is_infinitely_far(ball: Scene) -> None:
    d = directions()
    down = np.cos(CAMERA.pitch) * d[..., 1] - np.sin(CAMERA.pitch) * d[..., 2]
    floor = ball.instance == 1
    np.testing.assert_allclose(ball.depth[floor], -CAMERA.height / down[floor], rtol=1e-4)
    assert np.isinf(ball.depth[ball.instance == 0]).all()
    assert not ball.normals[ball.instance == 0].any()
    assert (ball.instance[0] == 0).all(), "the background is seen above the floor"
    lengths = np.linalg.norm(ball.normals[ball.instance > 0], axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-3)


def test_a_sphere_shades_exactly_the_floor_that_it_hides_from_the_light() -> None:
    scene = render(scene_of(BALL), SIZE, samples=1)
    floor = scene.instance == 1
    local = directions()[floor] * scene.depth[floor][:, None]
    c, s = np.cos(CAMERA.pitch), np.sin(CAMERA.pitch)
    world = np.stack(
        [
            local[:, 0],
            CAMERA.height + c * local[:, 1] - s * local[:, 2],
            s * local[:, 1] + c * local[:, 2] - CAMERA.distance,
        ],
        axis=1,
    )
    light = np.array(LIGHT) / np.linalg.norm(LIGHT)
    to_center = BALL_CENTER[0] - world
    along = to_center @ light
    off = np.sqrt(np.maximum((to_center**2).sum(axis=1) - along**2, 0))
    expected = (off < BALL.size) & (along > 0)
    certain = np.abs(off - BALL.size) > 0.02
    brightness = scene.image[floor].mean(axis=1)
    dark = brightness < (brightness.min() + brightness.max()) / 2
    assert expected.sum() > 100, "the shadow is in the picture"
    assert (dark[certain] == expected[certain]).all()
    assert brightness.min() < 0.75 * brightness.max()


def test_a_solid_meets_the_floor_where_it_stands() -> None:
    scene = render(scene_of(SolidSpec("cylinder", "blue", "matte", 0.0, 0.0, 0.9, 0.0)), SIZE)
    rim = np.array([[0.0, 0.0, -0.8 * 0.9]])  # the nearest point of a cylinder whose radius is 0.8 sizes
    column, row = to_pixels(rim)[0]
    rows = np.flatnonzero(scene.instance[:, int(column)] == 2)
    assert rows.max() + 0.5 == pytest.approx(row, abs=1.0)
    above, below = scene.depth[rows.max(), int(column)], scene.depth[rows.max() + 1, int(column)]
    assert above == pytest.approx(to_camera(rim)[0, 2], abs=0.05)
    assert below == pytest.approx(above, abs=0.08)


@pytest.mark.parametrize("size", [48, 96])
def test_maps_share_the_size_that_was_asked_for_and_the_types_that_are_documented(size: int) -> None:
    scene = render(sample_scene(3), size)
    assert scene.image.shape == scene.normals.shape == (size, size, 3)
    assert scene.depth.shape == scene.instance.shape == scene.classes.shape == (size, size)
    assert (scene.image.dtype, scene.depth.dtype, scene.normals.dtype) == (np.uint8, np.float32, np.float32)
    assert (scene.instance.dtype, scene.classes.dtype) == (np.int32, np.int32)
