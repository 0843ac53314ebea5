"""Draws random scenes and captions them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from tether.datasets.synthetic.scenes.mannequin import POSES, joints
from tether.datasets.synthetic.scenes.render import instances, project, solid_of
from tether.datasets.synthetic.scenes.spec import (
    COLORS,
    MATERIALS,
    SHAPES,
    CameraSpec,
    MannequinSpec,
    SceneSpec,
    SolidSpec,
)

__all__ = ["caption", "sample_scene"]

MIN_SHARE, MAX_HIDDEN = 0.025, 0.6
"""Least share of the image that a solid covers (a mannequin: 60% of it), and the largest share of an object that others
may hide."""
GAP = 0.08


def sample_scene(seed: int, max_objects: int = 4) -> SceneSpec:
    """A random scene: the same seed gives the same scene.

    Objects stand apart (a mannequin's arms may still reach over its neighbor), none is more than 60% hidden, and each
    solid covers at least 2.5% of the image (each mannequin 1.5%).
    """
    rng = np.random.default_rng(seed)
    while True:
        spec = _draw(rng, max_objects)
        if spec is not None and _well_seen(spec):
            return spec


def _draw(rng: np.random.Generator, max_objects: int) -> SceneSpec | None:
    """One random scene, or None if its objects do not fit beside each other."""
    colors = list(COLORS)
    count = int(rng.choice([1, 2, 3, 4], p=[0.4, 0.35, 0.17, 0.08]))
    count = min(count, max_objects)
    background = str(rng.choice(["white", "grey", "cyan", "blue", "pink", "yellow", "green", "purple", "orange"]))
    floor = str(
        rng.choice([c for c in ("grey", "white", "green", "brown", "blue", "yellow", "pink") if c != background])
    )
    camera = CameraSpec(
        height=float(rng.uniform(1.5, 2.3)),
        distance=float(rng.uniform(5.0, 5.6)),
        pitch=float(rng.uniform(0.13, 0.21)),
        half_view=0.32,
    )
    angle = rng.uniform(0.35, 1.1) * rng.choice([-1, 1])
    light = (float(np.sin(angle)), float(rng.uniform(1.0, 1.5)), float(-np.cos(angle) * 0.8))
    # The fewer the objects, the larger they are, so that the image is always full.
    largest = {1: 0.95, 2: 0.70, 3: 0.56, 4: 0.48}[count]
    spread = {1: 0.35, 2: 0.95, 3: 1.25, 4: 1.4}[count]
    placed: list[tuple[float, float, float]] = []
    solids, mannequins = [], []
    for _ in range(count):
        shown = [c for c in colors if c not in (floor, background)]
        color, material = str(rng.choice(shown)), str(rng.choice(MATERIALS, p=[0.5, 0.35, 0.15]))
        person = rng.random() < 0.22
        size = largest * rng.uniform(0.78, 1.0)
        radius = size * (0.95 if person else 1.2)
        for _ in range(30):
            x, z = float(rng.uniform(-spread, spread)), float(rng.uniform(-0.9, 1.1) * min(1.0, spread))
            if all(np.hypot(x - a, z - b) > radius + r + GAP for a, b, r in placed):
                break
        else:
            return None
        placed.append((x, z, radius))
        yaw = float(rng.uniform(-0.6, 0.6))
        if person:
            pose = str(rng.choice(list(POSES)))
            height = size * 2.7
            mannequins.append(MannequinSpec(pose, color, material, x, z, height, yaw, int(rng.integers(2**31))))
        else:
            shape = str(rng.choice(SHAPES))
            turn = yaw if shape == "torus" else float(rng.uniform(0, np.pi / 2))
            solids.append(SolidSpec(shape, color, material, x, z, size, turn))
    return SceneSpec(tuple(solids), tuple(mannequins), floor, background, light, camera)


def _well_seen(spec: SceneSpec, size: int = 48) -> bool:
    """Whether every object is large enough in the image and not too hidden; the frame may cut it."""
    instance = instances(spec, size)
    for k, thing in enumerate(spec.objects):
        person = isinstance(thing, MannequinSpec)
        alone = replace(spec, solids=() if person else (thing,), mannequins=(thing,) if person else ())
        whole, visible = int((instances(alone, size) == 2).sum()), int((instance == k + 2).sum())
        least = MIN_SHARE * size * size * (0.6 if person else 1.0)
        if visible < least or visible < (1 - MAX_HIDDEN) * whole:
            return False
    return True


def _name(thing: SolidSpec | MannequinSpec, with_material: bool) -> str:
    """ "a shiny red cube", "an orange mannequin waving"."""
    material = f"{thing.material} " if with_material else ""
    what = thing.shape if isinstance(thing, SolidSpec) else "mannequin"
    words = f"{material}{thing.color} {what}"
    if isinstance(thing, MannequinSpec):
        words += f" {thing.pose}"
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _relation(a: tuple[float, float], b: tuple[float, float]) -> str | None:
    """The spatial relation of a and b, each (x in pixels of 128, depth); None if neither is clear."""
    across, deep = b[0] - a[0], b[1] - a[1]
    if abs(across) > 22:
        return "left of" if across > 0 else "right of"
    if abs(deep) > 0.5:
        return "in front of" if deep > 0 else "behind"
    return None


def _place(thing: SolidSpec | MannequinSpec, spec: SceneSpec) -> tuple[float, float]:
    """x in pixels of a 128 px image, and depth, of an object's middle."""
    middle = solid_of(thing).bound[0] if isinstance(thing, SolidSpec) else joints(thing).mean(axis=0)
    x, _, depth = project(middle[None], spec.camera, 128)[0]
    return float(x), float(depth)


def caption(spec: SceneSpec, rng: np.random.Generator | None = None) -> str:
    """A caption of a scene; every spatial word is true in the image.

    Args:
        spec: the scene.
        rng: leaves out materials, floor, background or spatial relations at random; without one, everything is
            named.

    Returns:
        For example "a shiny red cube left of a matte blue sphere on a grey floor, white background, 3d scene"; under
        40 words, and always with the word "scene".
    """
    chance = rng.random if rng is not None else lambda: 0.0
    with_material = chance() < 0.6
    things = list(spec.objects)
    words = _name(things[0], with_material)
    for before, thing in pairwise(things):
        relation = _relation(_place(before, spec), _place(thing, spec)) if len(things) == 2 else None
        if relation is not None and chance() < 0.6:
            words += f" {relation} {_name(thing, with_material)}"
        else:
            words += (" and " if thing is things[-1] else ", ") + _name(thing, with_material)
    if chance() < 0.7:
        words += f" on {'an' if spec.floor[0] in 'aeiou' else 'a'} {spec.floor} floor"
    if chance() < 0.7:
        words += f", {spec.background} background"
    return f"{words}, 3d scene" if chance() < 0.8 else f"scene of {words}"
