"""The set `scenes`: one ray-traced scene a seed, with exact condition maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from tether.datasets.source import Rejected, Sample, Source
from tether.datasets.synthetic.scenes.maps import MAPS
from tether.datasets.synthetic.scenes.render import render
from tether.datasets.synthetic.scenes.sample import caption, sample_scene
from tether.errors import TetherError

__all__ = ["HELD_OUT_SCENES", "Scenes"]

HELD_OUT_SCENES = range(1_000_000, 1_001_500)
"""Seeds of scenes that are never trained on."""


class Scenes(Source):
    """The scenes of the seeds from 0 on. Depth, normals, classes and poses are exact, computed from the geometry.

    Args:
        size: side of the images in pixels.
        count: how many scenes.
        held_out: those of the seeds of `HELD_OUT_SCENES` instead.
    """

    layout = "scenes"
    is_shuffled = True
    exact_conditions = frozenset(MAPS)

    def __init__(self, size: int, count: int, held_out: bool = False) -> None:
        most, what = (len(HELD_OUT_SCENES), "held out") if held_out else (HELD_OUT_SCENES.start, "for training")
        if count > most:
            raise TetherError(f"count is {count}, but scenes has {most} {what}: ask for fewer")
        self.side, self.count = size, count
        self.first = HELD_OUT_SCENES.start if held_out else 0

    def __len__(self) -> int:
        return self.count

    def key(self, index: int) -> str:
        return f"scene-{self.first + index:06d}"

    def sample(self, index: int, kind: str | None = None) -> Sample:
        spec = sample_scene(self.first + index)
        if kind == "openpose" and not spec.mannequins:
            raise Rejected("empty condition", "the scene has no mannequin")
        words = caption(spec, np.random.default_rng([1, self.first + index]))
        scene = render(spec, self.side)
        condition = Image.fromarray(MAPS[kind](scene)) if kind in MAPS else None
        return Sample(self.key(index), Image.fromarray(scene.image), words, condition)

    def is_usable(self, index: int, kind: str) -> bool:
        return kind != "openpose" or bool(sample_scene(self.first + index).mannequins)

    def usable(self, kind: str) -> Sequence[int]:
        return [index for index in range(self.count) if self.is_usable(index, kind)]

    def size(self, index: int) -> tuple[int, int]:
        return self.side, self.side

    def listing(self) -> list[Any]:
        return [self.side, self.count, *([self.first] if self.first else [])]
