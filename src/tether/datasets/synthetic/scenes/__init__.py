"""Scenes: solids and mannequins in named colours, drawn by a small ray tracer that knows everything it drew.

spec = sample_scene(seed)       what is where
scene = render(spec, 128)       the picture, with exact depth, normals, instances, classes and keypoints
words = caption(spec, rng)      what a person would say of it
"""

from tether.datasets.synthetic.scenes.mannequin import JOINTS, POSES
from tether.datasets.synthetic.scenes.render import CLASS_NAMES, Scene, project, render
from tether.datasets.synthetic.scenes.sample import caption, sample_scene
from tether.datasets.synthetic.scenes.spec import (
    COLOURS,
    MATERIALS,
    SHAPES,
    CameraSpec,
    MannequinSpec,
    SceneSpec,
    SolidSpec,
    recolour,
)

__all__ = [
    "CLASS_NAMES",
    "COLOURS",
    "JOINTS",
    "MATERIALS",
    "POSES",
    "SHAPES",
    "CameraSpec",
    "MannequinSpec",
    "Scene",
    "SceneSpec",
    "SolidSpec",
    "caption",
    "project",
    "recolour",
    "render",
    "sample_scene",
]
