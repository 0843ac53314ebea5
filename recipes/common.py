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
"""Random captions of each training image."""
SHARES = {"3d emoji": 0.28, "flat emoji": 0.13, "other emoji": 0.24, "scenes": 0.35}
"""How often a sample of the denoiser is of which group; the first two are the drawings that VOCABULARY names."""
VOCABULARY = frozenset(
    line
    for line in (Path(__file__).parent / "vocabulary.txt").read_text().splitlines()
    if line and not line.startswith("#")
)
"""The names that are trained on most: a million samples spread over all names left every one a blob."""


def training_drawings(folder: Path = DATA) -> dict[str, list[Drawing]]:
    """The drawings of each group of `SHARES`, without the held-out names; synonyms are names of the thing alone."""
    groups: dict[str, list[Drawing]] = {group: [] for group in SHARES if group != "scenes"}
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
