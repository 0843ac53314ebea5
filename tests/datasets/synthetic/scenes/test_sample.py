"""Sampled scenes, and the truth of their captions."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tether.datasets.synthetic.scenes import (
    CLASS_NAMES,
    MannequinSpec,
    Scene,
    SolidSpec,
    caption,
    render,
    sample_scene,
)
from tether.datasets.synthetic.scenes.mannequin import joints
from tether.datasets.synthetic.scenes.solids import Capsule, Cone, Cube, Cylinder, Solid, Sphere, Torus

from .geometry import (
    Array,
    signed_distance,
    to_camera,
)


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
