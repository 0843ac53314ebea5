"""The exact maps against the geometry that they show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tether.datasets.latents.crops import Crop, may_flip
from tether.datasets.synthetic.scenes import CLASS_NAMES, MannequinSpec, Scene, SolidSpec, project, render, sample_scene
from tether.datasets.synthetic.scenes.mannequin import joints
from tether.datasets.synthetic.scenes.maps import (
    CLASS_COLORS,
    LIMBS,
    MAPS,
    depth_map,
    normal_map,
    pose_map,
    seg_map,
)
from tether.kinds import kind_of
from tether.kinds.openpose import JOINT_COLORS

from .geometry import BALL, BALL_CENTER, CAMERA, SIZE, Array, directions, scene_of, to_camera, to_pixels

PERSON = MannequinSpec("in a t-pose", "green", "matte", 0.0, 0.6, 2.2, 0.0, 5)
DRAWN = 512
"""Pixels a side, so that joints do not cover each other."""


@pytest.fixture(scope="module")
def ball() -> Scene:
    return render(scene_of(BALL), SIZE)


@pytest.fixture(scope="module")
def person() -> Scene:
    return render(scene_of(mannequins=(PERSON,)), DRAWN, samples=1)


@pytest.mark.parametrize("kind", MAPS)
def test_maps_are_rgb_of_the_size_of_the_image(kind: str, ball: Scene) -> None:
    pixels = MAPS[kind](ball)
    assert (pixels.dtype, pixels.shape) == (np.uint8, ball.image.shape)


def test_the_nearest_point_of_a_sphere_is_its_brightest_at_the_inverse_of_its_depth(ball: Scene) -> None:
    levels = depth_map(ball)[..., 0].astype(int)
    center = to_camera(BALL_CENTER)[0]
    nearest = center - [0, 0, BALL.size]  # in camera space: the sphere's point of the least depth
    column, row = (int(SIZE / 2 + sign * nearest[k] / nearest[2] * SIZE / 2 / CAMERA.half_view) for k, sign in
                   ((0, 1), (1, -1)))  # fmt: skip
    inside = ball.instance == 2
    assert levels[row, column] == levels[inside].max()
    assert levels[row, column] == pytest.approx(255 * ball.depth.min() / nearest[2], abs=0.6)


def test_near_is_bright_and_the_background_is_black(ball: Scene) -> None:
    levels = depth_map(ball)
    assert (levels[ball.instance == 0] == 0).all()
    assert levels.max() == 255
    order = np.argsort(ball.depth, axis=None)
    assert (np.diff(levels[..., 1].ravel()[order].astype(int)) <= 0).all()
    assert (levels[..., 0] == levels[..., 2]).all()


def test_normals_of_a_sphere_are_those_of_its_radius_at_every_pixel(ball: Scene) -> None:
    inside = ball.instance == 2
    points = directions()[inside] * ball.depth[inside][:, None]
    normals = (points - to_camera(BALL_CENTER)[0]) / BALL.size * [1, 1, -1]  # z to the viewer
    expected = (normals + 1) / 2 * 255
    assert np.abs(normal_map(ball)[inside] - expected).max() < 1.5


def test_a_spheres_silhouette_is_red_at_the_right_green_at_the_top_and_its_middle_faces_the_viewer(ball: Scene) -> None:
    inside = ball.instance == 2
    normals = normal_map(ball).astype(int)
    rows, columns = np.nonzero(inside)
    column, row = to_pixels(BALL_CENTER)[0].astype(int)
    right, left = normals[row, columns.max()], normals[row, columns.min()]
    assert right[0] > 240
    assert left[0] < 15
    assert normals[rows.min(), column][1] > 240
    ray = directions()[row, column]
    facing = -ray / np.linalg.norm(ray) * [1, 1, -1]  # at the middle, the normal points back along the ray
    assert np.abs(normals[row, column] - (facing + 1) / 2 * 255).max() < 6
    assert (normals[ball.instance == 0] == [128, 128, 255]).all()
    up = np.array([0, np.cos(CAMERA.pitch), np.sin(CAMERA.pitch)])  # the floor's, in camera space, z to the viewer
    assert np.abs(normals[ball.instance == 1] - (up + 1) / 2 * 255).max() < 1.5


def test_class_pixels_have_the_color_of_their_instances_class() -> None:
    assert list(CLASS_COLORS) == list(CLASS_NAMES)
    colors = np.array(list(CLASS_COLORS.values()), int)
    apart = np.abs(colors[:, None] - colors[None]).sum(axis=2) + 999 * np.eye(len(colors), dtype=int)
    assert apart.min() > 100
    for seed in range(12):
        scene = render(sample_scene(seed), 48, samples=1)
        shown = seg_map(scene)
        assert (shown[scene.instance == 0] == CLASS_COLORS["background"]).all()
        assert (shown[scene.instance == 1] == CLASS_COLORS["floor"]).all()
        for k, thing in enumerate(scene.spec.objects):
            name = thing.shape if isinstance(thing, SolidSpec) else "mannequin"
            assert (shown[scene.instance == k + 2] == CLASS_COLORS[name]).all()


def test_joints_have_their_colors_where_they_project_and_limbs_theirs_between_them(person: Scene) -> None:
    canvas = pose_map(person)
    places = project(joints(PERSON), CAMERA, DRAWN)[:, :2]
    for k, (x, y) in enumerate(places):
        assert tuple(canvas[int(y), int(x)]) == JOINT_COLORS[k]
    for (start, end), color in zip(LIMBS, JOINT_COLORS, strict=False):
        x, y = (places[start] + places[end]) / 2
        if (np.hypot(*(places - (x, y)).T) > 8).all():  # no joint covers the middle
            assert tuple(canvas[int(y), int(x)]) == tuple(int(c * 0.6) for c in color)
    drawn = canvas.any(axis=2)
    assert 0.001 < drawn.mean() < 0.05


def test_hidden_joints_and_their_limbs_are_not_drawn() -> None:
    cube = SolidSpec("cube", "red", "matte", 0.0, -0.9, 0.5, 0.0)
    scene = render(scene_of(cube, mannequins=(replace(PERSON, pose="standing"),)), DRAWN, samples=1)
    (keypoints,) = scene.keypoints
    hidden = [k for k in range(18) if not keypoints[k, 2]]
    assert len(hidden) > 2
    canvas = pose_map(scene).reshape(-1, 3)
    for k in hidden:
        assert not (canvas == JOINT_COLORS[k]).all(axis=1).any()
    for limb, color in zip(LIMBS, JOINT_COLORS, strict=False):
        seen = (canvas == [int(c * 0.6) for c in color]).all(axis=1).any()
        assert seen == (not set(limb) & set(hidden))


def test_a_scene_without_mannequins_has_an_empty_pose_map(ball: Scene) -> None:
    assert not pose_map(ball).any()


def mirrored(scene: Scene) -> Scene:
    """A scene whose spec is mirrored left to right (solids only)."""
    spec = scene.spec
    solids = tuple(replace(solid, x=-solid.x, yaw=-solid.yaw) for solid in spec.solids)
    light = (-spec.light[0], *spec.light[1:])
    return render(replace(spec, solids=solids, light=light), len(scene.depth), samples=1)


def mirrored_keypoints(scene: Scene) -> Scene:
    """A scene whose key points are those of the mirrored one: left and right joints change places."""
    other = [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16]
    points = [keypoints[other] * [-1, 1, 1] + [len(scene.depth), 0, 0] for keypoints in scene.keypoints]
    return replace(scene, keypoints=[one.astype(np.float32) for one in points])


def agreement(one: Array, other: Array) -> float:
    """Share of pixels that differ by at most a level."""
    return float((np.abs(one.astype(int) - other.astype(int)) <= 1).all(axis=2).mean())


SOLIDS = [seed for seed in range(60) if not sample_scene(seed).mannequins][:8]


@pytest.mark.parametrize("kind", ["depth", "normal", "seg"])
def test_the_flip_rule_gives_the_map_of_the_mirrored_scene(kind: str) -> None:
    for seed in SOLIDS:
        scene = render(sample_scene(seed), 96, samples=1)
        flip = kind_of(kind).flip
        assert flip is not None
        # A ray on an edge may meet either side of it.
        assert agreement(flip(MAPS[kind](scene)), MAPS[kind](mirrored(scene))) > 0.99


@pytest.mark.parametrize("seed", [1, 3, 6, 10, 13, 21, 48])
def test_the_flip_rule_of_poses_exchanges_left_and_right(seed: int) -> None:
    scene = render(sample_scene(seed), 256, samples=1)
    flip = kind_of("openpose").flip
    assert flip is not None
    flipped, expected = flip(pose_map(scene)), pose_map(mirrored_keypoints(scene))
    drawn = flipped.any(axis=2) | expected.any(axis=2)
    # Where limbs cross, the later one is on top, and that is another one after the exchange.
    assert (flipped[drawn] == expected[drawn]).all(axis=1).mean() > 0.95
    assert agreement(flipped, expected) > 0.995


def test_a_flipped_crop_has_the_normals_of_the_mirrored_image(ball: Scene) -> None:
    condition = Image.fromarray(normal_map(ball))
    plain, flipped = (
        np.asarray(Crop(20, 20, 96, flip).of_condition(condition, "normal", (96, 96))) for flip in (False, True)
    )
    assert np.array_equal(flipped[..., 0], 255 - plain[:, ::-1, 0])
    assert np.array_equal(flipped[..., 1:], plain[:, ::-1, 1:])


def test_a_resized_crop_of_classes_has_no_new_colors() -> None:
    scene = render(sample_scene(5), 96, samples=1)
    condition = Image.fromarray(seg_map(scene))
    cut = np.asarray(Crop(3, 5, 83, True).of_condition(condition, "seg", (64, 64)))
    assert {tuple(color) for color in cut.reshape(-1, 3)} <= set(CLASS_COLORS.values())


@pytest.mark.parametrize(("kind", "may"), [("depth", True), ("normal", True), ("seg", True), ("openpose", True)])
def test_samples_of_exact_kinds_may_be_mirrored_unless_the_caption_names_a_side(kind: str, may: bool) -> None:
    assert may_flip(kind, "a red cube and a blue sphere, 3d scene") == may
    assert not may_flip(kind, "a red cube left of a blue sphere, 3d scene")
