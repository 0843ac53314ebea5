"""Changes of a scene's description."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from tether.datasets.synthetic.scenes import (
    COLORS,
    recolor,
    render,
    sample_scene,
)

from .geometry import (
    SIZE,
)


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
