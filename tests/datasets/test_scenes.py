"""The ray tracer against the formulas of the shapes it draws, and sampled scenes against what their captions say."""

from __future__ import annotations

import re
from dataclasses import replace

import cv2
import numpy as np
import pytest

from tether.datasets.synthetic.scenes import (
    CLASS_NAMES,
    COLORS,
    JOINTS,
    POSES,
    CameraSpec,
    MannequinSpec,
    Scene,
    SceneSpec,
    SolidSpec,
    caption,
    recolor,
    render,
    sample_scene,
)
from tether.datasets.synthetic.scenes.mannequin import joints
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


BALL = SolidSpec("sphere", "red", "matte", 0.3, 0.2, 0.8, 0.0)
BALL_CENTRE = np.array([[BALL.x, BALL.size, BALL.z]])


@pytest.fixture(scope="module")
def ball() -> Scene:
    return render(scene_of(BALL), SIZE)


def test_depth_and_normals_of_a_sphere_are_those_of_the_formula(ball: Scene) -> None:
    center = to_camera(BALL_CENTRE)[0]
    u, v = to_pixels(BALL_CENTRE)[0].astype(int)
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
    center = to_camera(BALL_CENTRE)[0]
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
    to_center = BALL_CENTRE[0] - world
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


def _turned(p: Array, yaw: float) -> Array:
    c, s = np.cos(yaw), np.sin(yaw)
    return np.stack([c * p[:, 0] - s * p[:, 2], p[:, 1], s * p[:, 0] + c * p[:, 2]], axis=1)


def signed_distance(solid: Solid, p: Array) -> Array:
    """Below 0 inside the solid and 0 on its surface, for world points `(N, 3)`."""
    if isinstance(solid, Sphere):
        return np.linalg.norm(p - solid.center, axis=1) - solid.radius
    if isinstance(solid, Cube):
        return np.abs(_turned(p - solid.center, solid.yaw)).max(axis=1) - solid.half
    if isinstance(solid, Torus):
        q = _turned(p - solid.center, solid.yaw)
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


@pytest.mark.parametrize("pose", POSES)
def test_keypoints_lie_where_the_joints_project_and_visible_ones_on_their_mannequin(pose: str) -> None:
    mannequin = MannequinSpec(pose, "green", "matte", 0.0, 0.0, 1.9, 0.3, 5)
    scene = render(scene_of(mannequins=(mannequin,)), SIZE)
    (keypoints,) = scene.keypoints
    assert keypoints.shape == (18, 3) == (len(JOINTS), 3)
    np.testing.assert_allclose(keypoints[:, :2], to_pixels(joints(mannequin)), atol=0.01)
    visible = keypoints[keypoints[:, 2] == 1]
    assert len(visible) >= 14, "nothing stands before it"
    assert (scene.instance[visible[:, 1].astype(int), visible[:, 0].astype(int)] == 2).all()


def test_a_mannequin_that_faces_the_camera_has_its_right_side_at_the_left() -> None:
    mannequin = MannequinSpec("standing", "green", "matte", 0.0, 0.0, 1.9, 0.0, 5)
    (keypoints,) = render(scene_of(mannequins=(mannequin,)), SIZE).keypoints
    place = {name: keypoints[k] for k, name in enumerate(JOINTS)}
    for part in ("shoulder", "elbow", "hip", "ankle", "eye", "ear"):
        assert place[f"right_{part}"][0] < place[f"left_{part}"][0]
    heights = [place[name][1] for name in ("nose", "neck", "right_hip", "right_knee", "right_ankle")]
    assert heights == sorted(heights), "y grows downwards from nose to ankle"


def test_a_keypoint_behind_another_object_is_not_visible() -> None:
    mannequin = MannequinSpec("standing", "green", "matte", 0.0, 1.0, 1.9, 0.0, 5)
    cube = SolidSpec("cube", "red", "matte", 0.0, -0.6, 0.6, 0.0)
    scene = render(scene_of(cube, mannequins=(mannequin,)), SIZE)
    (keypoints,) = scene.keypoints
    u, v = keypoints[:, 0].astype(int), keypoints[:, 1].astype(int)
    behind = scene.instance[v, u] == 2
    assert 0 < behind.sum() < 18
    assert not keypoints[behind, 2].any()


@pytest.mark.parametrize("size", [48, 96])
def test_maps_share_the_size_that_was_asked_for_and_the_types_that_are_documented(size: int) -> None:
    scene = render(sample_scene(3), size)
    assert scene.image.shape == scene.normals.shape == (size, size, 3)
    assert scene.depth.shape == scene.instance.shape == scene.classes.shape == (size, size)
    assert (scene.image.dtype, scene.depth.dtype, scene.normals.dtype) == (np.uint8, np.float32, np.float32)
    assert (scene.instance.dtype, scene.classes.dtype) == (np.int32, np.int32)


def test_the_same_seed_gives_the_same_scene_and_the_same_pixels() -> None:
    assert sample_scene(11) == sample_scene(11)
    assert sample_scene(11) != sample_scene(12)
    first, second = render(sample_scene(11), 64), render(sample_scene(11), 64)
    assert (first.image == second.image).all()
    assert (first.depth == second.depth).all()


@pytest.fixture(scope="module")
def sampled() -> list[Scene]:
    """200 sampled scenes, small."""
    return [render(sample_scene(seed), 64, samples=1) for seed in range(200)]


def test_no_scene_has_more_objects_than_allowed() -> None:
    assert {len(sample_scene(seed, max_objects=2).objects) for seed in range(60)} == {1, 2}


def test_classes_name_what_each_instance_is(sampled: list[Scene]) -> None:
    for scene in sampled:
        for k, thing in enumerate(scene.spec.objects):
            kind = thing.shape if isinstance(thing, SolidSpec) else "mannequin"
            assert (scene.classes[scene.instance == k + 2] == CLASS_NAMES.index(kind)).all()
        assert ((scene.classes == 0) == (scene.instance == 0)).all()


def _inside(thing: SolidSpec | MannequinSpec, p: Array) -> Array:
    """Whether world points `(N, 3)` lie inside a thing; of a mannequin, inside its thinnest limbs."""
    if isinstance(thing, MannequinSpec):
        q = joints(thing)
        bones = [(2, 3), (3, 4), (5, 6), (6, 7), (8, 9), (9, 10), (11, 12), (12, 13), (2, 5), (1, 8), (1, 11), (0, 1)]
        radius = 0.027 * thing.height
        return np.min([signed_distance(Capsule(q[a], q[b], radius), p) for a, b in bones], axis=0) < 0
    s, foot = thing.size, np.array([thing.x, 0, thing.z])
    middle = foot + np.array([0, s, 0])
    solid: dict[str, Solid] = {
        "sphere": Sphere(middle, s),
        "cube": Cube(foot + np.array([0, 0.86 * s, 0]), 0.86 * s, thing.yaw),
        "cylinder": Cylinder(foot, 0.8 * s, 2 * s),
        "cone": Cone(foot, 0.95 * s, 2.1 * s),
        "torus": Torus(middle, 0.7 * s, 0.3 * s, thing.yaw),
    }
    return signed_distance(solid[thing.shape], p) < 0


def test_no_two_objects_share_a_point_of_space(sampled: list[Scene]) -> None:
    cloud = np.random.default_rng(0).uniform((-3, 0, -3), (3, 3, 3), (20000, 3))
    pairs = 0
    for scene in sampled[:80]:
        held = np.sum([_inside(thing, cloud) for thing in scene.spec.objects], axis=0)
        pairs += len(scene.spec.objects) > 1
        assert held.any()
        assert held.max() <= 1
    assert pairs > 20


def _words_of(thing: SolidSpec | MannequinSpec) -> str:
    return f"{thing.color} {thing.shape if isinstance(thing, SolidSpec) else f'mannequin {thing.pose}'}"


def test_captions_are_short_name_every_object_and_say_scene(sampled: list[Scene]) -> None:
    for seed, scene in enumerate(sampled):
        rng = np.random.default_rng(seed)
        for words in (caption(scene.spec), *(caption(scene.spec, rng) for _ in range(5))):
            assert len(words.split()) < 40, words
            assert "scene" in words
            assert all(_words_of(thing) in words for thing in scene.spec.objects), words


def test_spatial_words_are_true_in_the_picture(sampled: list[Scene]) -> None:
    said: dict[str, int] = {}
    for scene in sampled:
        match = re.search(r" (left of|right of|in front of|behind) ", caption(scene.spec))
        if match is None:
            continue
        things = scene.spec.objects
        # The pair is found by where its words stand, not by the order of the objects.
        before, after = caption(scene.spec)[: match.start()], caption(scene.spec)[match.end() :]
        first = [k for k, thing in enumerate(things) if _words_of(thing) in before]
        second = [k for k, thing in enumerate(things) if _words_of(thing) in after]
        if len(things) != 2 or len(first) != 1 or len(second) != 1:
            continue
        a, b = first[0], second[0]
        across = [np.flatnonzero((scene.instance == k + 2).any(axis=0)).mean() for k in (a, b)]
        deep = [to_camera(np.array([[things[k].x, 0, things[k].z]]), scene.spec.camera)[0, 2] for k in (a, b)]
        word = match.group(1)
        true = {
            "left of": across[0] < across[1],
            "right of": across[0] > across[1],
            "in front of": deep[0] < deep[1],
            "behind": deep[0] > deep[1],
        }
        assert true[word], caption(scene.spec)
        said[word] = said.get(word, 0) + 1
    assert set(said) == {"left of", "right of", "in front of", "behind"}
    assert sum(said.values()) > 40


def test_objects_are_large_enough_to_see(sampled: list[Scene]) -> None:
    # Sampling looks at 48 x 48 rays, so an object may fall short of its share by the grid's error.
    for scene in sampled:
        for k, thing in enumerate(scene.spec.objects):
            least = 0.025 if isinstance(thing, SolidSpec) else 0.6 * 0.025
            assert (scene.instance == k + 2).mean() > 0.85 * least


def test_recoloring_changes_one_object_and_nothing_else() -> None:
    spec = next(s for s in map(sample_scene, range(100)) if len(s.objects) == 2 and s.objects[0].material == "matte")
    color = next(c for c in COLORS if c not in {spec.floor, spec.background, *(o.color for o in spec.objects)})
    changed = recolor(spec, 0, color)
    assert changed.objects[0] == replace(spec.objects[0], color=color)
    assert changed.objects[1:] == spec.objects[1:]
    old, new = render(spec, SIZE), render(changed, SIZE)
    assert (old.instance == new.instance).all()
    assert (old.depth == new.depth).all()
    near = cv2.dilate((old.instance == 2).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert (old.image[~near] == new.image[~near]).all()
    assert (old.image[old.instance == 2] != new.image[old.instance == 2]).any(axis=-1).mean() > 0.9


def test_recoloring_refuses_an_unknown_color_and_a_missing_object() -> None:
    spec = sample_scene(0)
    with pytest.raises(KeyError):
        recolor(spec, 0, "beige")
    with pytest.raises(IndexError):
        recolor(spec, len(spec.objects), "red")
