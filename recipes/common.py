"""What the recipes share: where the data is, which images there are, and how often each is trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tether.datasets.synthetic.emoji import Drawing, is_held_out

DATA = Path("data")
SIZE = 128
CAPTIONS = 6
"""Random captions of each scene."""
SHARES = {
    "core": 0.36,
    "more": 0.07,
    "rest": 0.03,
    "counts": 0.07,
    "places": 0.08,
    "recolored": 0.09,
    "pairs": 0.11,
    "scenes": 0.19,
}
"""How often a sample of the denoiser is of which kind of image; mixture.py says what they are."""


def read_names(path: Path) -> frozenset[str]:
    """The names that a file lists, one a line; lines that begin with # are headings."""
    return frozenset(line for line in path.read_text().splitlines() if line and not line.startswith("#"))


VOCABULARY = read_names(Path(__file__).with_name("vocabulary.txt"))
"""The names that are trained on most: a million samples spread over all names left every one a blob."""
EVERYDAY = read_names(Path(__file__).with_name("everyday.txt"))
"""More names of that kind, since the base's second edition."""


def training_drawings(folder: Path = DATA) -> dict[str, list[Drawing]]:
    """The 3D and flat drawings without the held-out names: those of VOCABULARY by their style, and the others."""
    groups: dict[str, list[Drawing]] = {"3d emoji": [], "flat emoji": [], "other emoji": []}
    for style in ("3d", "flat"):
        for drawing in load_drawings(folder / f"emoji-{style}.npz", tags=False):
            if not is_held_out(drawing.name):
                groups[drawing.style if drawing.name in VOCABULARY else "other emoji"].append(drawing)
    return groups


def load_drawings(path: Path, tags: bool = True) -> list[Drawing]:
    """Reads a file that recipes/sources.py packed; without tags, the synonyms are names of the thing alone."""
    words = "synonyms" if tags else "names"
    with np.load(path) as pack:
        style = str(pack["style"])
        return [
            Drawing(entry["name"], tuple(entry[words]), style, rgba)
            for entry, rgba in zip(json.loads(str(pack["words"])), pack["rgba"], strict=True)
        ]


def to_tensor(pixels: np.ndarray | Tensor) -> Tensor:
    """uint8 `(B, H, W, 3)` in 0..255 -> float32 `(B, 3, H, W)` in [-1, 1], channels last, where the pixels are."""
    return torch.as_tensor(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
