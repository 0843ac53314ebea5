"""Scenes: solids and mannequins in named colors, drawn by a small ray tracer that gives exact maps too.

spec = sample_scene(seed)       the objects, floor, light and camera
scene = render(spec, 128)       the image, with exact depth, normals, instances, classes and key points
words = caption(spec, rng)      a caption
condition = MAPS["depth"](scene)    a condition map
"""

from tether.datasets.synthetic.scenes.mannequin import JOINTS, POSES
from tether.datasets.synthetic.scenes.maps import MAPS
from tether.datasets.synthetic.scenes.render import CLASS_NAMES, Scene, project, render
from tether.datasets.synthetic.scenes.sample import caption, sample_scene
from tether.datasets.synthetic.scenes.spec import (
    COLORS,
    MATERIALS,
    SHAPES,
    CameraSpec,
    MannequinSpec,
    SceneSpec,
    SolidSpec,
    recolor,
)

__all__ = [
    "CLASS_NAMES",
    "COLORS",
    "JOINTS",
    "MAPS",
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
    "recolor",
    "render",
    "sample_scene",
]
