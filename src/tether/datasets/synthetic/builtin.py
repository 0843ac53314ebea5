"""The sets that come with the package: `emoji3d` (1,079 drawings), `scenes` and `circles` (drawn on the fly).

Sample n of a set is a function of n and the picture's size alone.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tether.datasets.samples import Sample
from tether.datasets.sources import Source
from tether.datasets.synthetic.circles import Circles
from tether.datasets.synthetic.emoji import Drawing, caption, compose, is_held_out
from tether.errors import TetherError

__all__ = ["HELD_OUT_SCENES", "Emoji3D", "Scenes", "builtin_source", "load_emoji3d"]

EMOJI3D = Path(__file__).parent / "data" / "emoji3d.npz"
HELD_OUT_SCENES = range(1_000_000, 1_000_500)
"""Seeds of the scenes that no training sees."""
PLACEMENTS = 8
"""Random placements of each drawing, where no count is asked for."""
SCENES, CIRCLES = 5000, 5000


def load_emoji3d(path: Path = EMOJI3D) -> list[Drawing]:
    """The drawings of the set, 160 pixels a side, held-out ones too (`tether.datasets.synthetic.emoji.is_held_out`).

    Raises:
        TetherError: where this installation does not have them.
    """
    if not path.is_file():
        raise TetherError(f"this installation has no emoji3d (looked for {path}): install the package again")
    with np.load(path) as pack:
        blob, ends, style = pack["webp"].tobytes(), pack["ends"], str(pack["style"])
        words = json.loads(str(pack["words"]))
    starts = [0, *ends[:-1]]
    return [
        Drawing(entry["name"], tuple(entry["synonyms"]), style, _decode(blob[start:end]))
        for entry, start, end in zip(words, starts, ends, strict=True)
    ]


def _decode(webp: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(webp), formats=["WEBP"]) as image:
        return np.asarray(image.convert("RGBA"))


class Emoji3D(Source):
    """The drawings on plain backgrounds, randomly placed; those of held-out names never appear."""

    kind = "emoji3d"
    has_conditions = False

    def __init__(self, size: int, count: int | None) -> None:
        self.size = size
        self.drawings = [drawing for drawing in load_emoji3d() if not is_held_out(drawing.name)]
        self.count = PLACEMENTS * len(self.drawings) if count is None else count

    def __reduce__(self) -> tuple[type, tuple[int, int]]:
        return type(self), (self.size, self.count)  # worker processes read the drawings themselves

    def __len__(self) -> int:
        return self.count

    def key(self, index: int) -> str:
        placement, number = divmod(index, len(self.drawings))
        return f"{self.drawings[number].name}-{placement}"

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([0x3D, index])
        drawing = self.drawings[index % len(self.drawings)]
        pixels, background = compose(drawing, self.size, rng)
        return Sample(self.key(index), Image.fromarray(pixels), caption(drawing, background, rng))

    def listing(self) -> list[Any]:
        return [self.size, self.count, [drawing.name for drawing in self.drawings]]


class Scenes(Source):
    """Ray-traced scenes of the seeds from 0 on (`tether.datasets.synthetic.scenes`)."""

    kind = "scenes"
    has_conditions = False

    def __init__(self, size: int, count: int) -> None:
        if count > HELD_OUT_SCENES.start:
            raise TetherError(f"there are {HELD_OUT_SCENES.start} scenes for training, not {count}: ask for fewer")
        self.size, self.count = size, count

    def __len__(self) -> int:
        return self.count

    def key(self, index: int) -> str:
        return f"scene-{index:06d}"

    def __getitem__(self, index: int) -> Sample:
        from tether.datasets.synthetic import scenes

        spec = scenes.sample_scene(index)
        words = scenes.caption(spec, np.random.default_rng([1, index]))
        return Sample(self.key(index), Image.fromarray(scenes.render(spec, self.size).image), words)

    def listing(self) -> list[Any]:
        return [self.size, self.count]


def builtin_source(name: str, size: int, count: int | None) -> Source:
    """Opens one of the sets; see `tether.datasets.sources.open_source`.

    Raises:
        TetherError: when the size or the count makes no sense.
    """
    if size < 8 or (count is not None and count < 1):
        raise TetherError(f"{name} needs a size of at least 8 pixels and a count of at least 1, not {size} and {count}")
    if name == "emoji3d":
        return Emoji3D(size, count)
    return Scenes(size, count or SCENES) if name == "scenes" else Circles(size, count or CIRCLES)
