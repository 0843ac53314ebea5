"""The set `emoji3d`: 1,079 drawings in one file, randomly placed on plain backgrounds."""

from __future__ import annotations

import io
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tether.datasets.source import Sample, Source
from tether.datasets.synthetic.emoji import Drawing, caption, compose, is_held_out
from tether.errors import TetherError

__all__ = ["EMOJI3D", "Emoji3D", "load_emoji3d"]

EMOJI3D = Path(__file__).parent / "data" / "emoji3d.npz"
PLACEMENTS = 8
"""Random placements of each drawing by default."""


@lru_cache(maxsize=1)  # decoding takes half a second, and runs open the set several times
def load_emoji3d(path: Path = EMOJI3D) -> list[Drawing]:
    """The drawings of the set, 160 pixels a side, held-out ones too (`tether.datasets.synthetic.emoji.is_held_out`).

    Raises:
        TetherError: if this installation does not contain them.
    """
    if not path.is_file():
        raise TetherError(f"emoji3d is missing from this installation (expected {path}): install the package again")
    with np.load(path) as pack:
        blob, ends, style = pack["webp"].tobytes(), pack["ends"], str(pack["style"])
        entries = json.loads(str(pack["words"]))
    starts = [0, *ends[:-1]]
    return [
        Drawing(entry["name"], tuple(entry["synonyms"]), style, _decode(blob[start:end]))
        for entry, start, end in zip(entries, starts, ends, strict=True)
    ]


def _decode(webp: bytes) -> np.ndarray:
    """uint8 `(160, 160, 4)` RGBA."""
    with Image.open(io.BytesIO(webp), formats=["WEBP"]) as image:
        return np.asarray(image.convert("RGBA"))


class Emoji3D(Source):
    """The drawings on plain backgrounds, randomly placed: of all names but the held-out ones, or of those alone."""

    layout = "emoji3d"

    def __init__(self, size: int, count: int | None, held_out: bool = False) -> None:
        self.side, self.held_out = size, held_out
        self.drawings = [drawing for drawing in load_emoji3d() if is_held_out(drawing.name) == held_out]
        self.count = PLACEMENTS * len(self.drawings) if count is None else count

    def __reduce__(self) -> tuple[type, tuple[int, int, bool]]:
        return type(self), (self.side, self.count, self.held_out)  # worker processes load the drawings themselves

    def __len__(self) -> int:
        return self.count

    def key(self, index: int) -> str:
        placement, number = divmod(index, len(self.drawings))
        return f"{self.drawings[number].name}-{placement}"

    def subject(self, index: int) -> str:
        return self.drawings[index % len(self.drawings)].name

    def sample(self, index: int, kind: str | None = None) -> Sample:
        rng = np.random.default_rng([0x3D, index])
        drawing = self.drawings[index % len(self.drawings)]
        pixels, background = compose(drawing, self.side, rng)
        return Sample(self.key(index), Image.fromarray(pixels), caption(drawing, background, rng))

    def size(self, index: int) -> tuple[int, int]:
        return self.side, self.side

    def listing(self) -> list[Any]:
        return [self.side, self.count, [drawing.name for drawing in self.drawings]]
