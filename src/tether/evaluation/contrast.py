"""A small contrastive model of pictures and words (as CLIP, arXiv:2103.00020), trained on the package's own drawings.

    s(picture, text) = cos(f(picture), g(text)),     trained so that the right pairs of a batch are told from all others

f is a convolutional network on 64 x 64 pixels, g the mean of the embeddings of a text's words and of their pieces of
three letters, then two layers. It knows the drawings' names, styles and colors, and nothing of other pictures. One
ships; its card says how often it finds the right one of held-out captions. `python recipes/contrast.py train` makes
another. With it come two measures:

- *picture-text agreement*, 100 max(0, s), of a picture and its prompt, as CLIP score;
- *Frechet distance* of the pictures' features to those of real ones (arXiv:1706.08500), with this model's features
  instead of Inception's: its numbers compare with each other alone, and say little of fewer than a thousand pictures.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from tether.errors import TetherError
from tether.images.tensors import to_condition
from tether.kinds.measures import Measure, Numbers
from tether.weights import SHIPPED_BASE, shipped

__all__ = ["CONTRAST", "Contrast", "frechet_distance", "load_contrast", "pieces"]

SIDE = 64
ROWS = 8192
"""Rows of the table of embeddings; the pieces of words share them by a hash."""
_WORD = re.compile(r"[a-z0-9]+")


class Contrast(nn.Module):
    """The model.

    Args:
        widths: channels at 32 x 32, 16 x 16, ... pixels.
        width: of the common space.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 96, 128), width: int = 96) -> None:
        super().__init__()
        self.config = {"widths": list(widths), "width": width}
        layers: list[nn.Module] = []
        for before, after in pairwise([3, *widths]):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
            layers += [nn.Conv2d(after, after, 3, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        self.pictures = nn.Sequential(*layers)
        self.of_picture = nn.Linear(2 * widths[-1], width)
        self.words = nn.EmbeddingBag(ROWS, width, mode="mean")
        self.of_text = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.scale = nn.Parameter(torch.tensor(10.0).log())

    def features(self, pixels: Tensor) -> Tensor:
        """Pixels `(B, 3, H, W)` in [0, 1] -> features `(B, 2 widths[-1])`: means and maxima over space."""
        x = self.pictures(2 * interpolate(pixels, size=(SIDE, SIDE), mode="area") - 1)
        return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)

    def see(self, pixels: Tensor) -> Tensor:
        """Pixels `(B, 3, H, W)` in [0, 1] -> f, `(B, width)`, of length 1."""
        return normalize(self.of_picture(self.features(pixels)), dim=1)

    def read(self, texts: Sequence[str]) -> Tensor:
        """Texts -> g, `(B, width)`, of length 1."""
        numbers = [pieces(text) for text in texts]
        starts = np.cumsum([0, *map(len, numbers)])[:-1]
        device = self.words.weight.device
        flat = torch.tensor([one for each in numbers for one in each], device=device)
        words = self.words(flat, torch.from_numpy(starts).to(device))
        return normalize(words + self.of_text(words), dim=1)

    def loss(self, pixels: Tensor, texts: Sequence[str]) -> Tensor:
        """The symmetric cross-entropy of CLIP, of a batch of pairs."""
        similar = self.scale.exp().clamp(max=100) * self.see(pixels) @ self.read(texts).t()
        right = torch.arange(len(texts), device=similar.device)
        return (nn.functional.cross_entropy(similar, right) + nn.functional.cross_entropy(similar.t(), right)) / 2

    @torch.no_grad()
    def agreement(self, image: Image.Image, prompt: str) -> Numbers:
        """100 max(0, s) of a picture and its prompt; a measure of `tether.evaluation.run`."""
        return {
            "value": 100 * max(0.0, float((self.see(to_condition(image.convert("RGB"))) * self.read([prompt])).sum()))
        }

    @torch.no_grad()
    def distance(self, ours: Iterable[Image.Image], theirs: Iterable[Image.Image]) -> float:
        """`frechet_distance` of the features of two sets of pictures."""
        found = [
            torch.cat([self.features(to_condition(image.convert("RGB"))) for image in images])
            for images in (ours, theirs)
        ]
        return frechet_distance(*(one.double().numpy() for one in found))

    def save(self, folder: Path) -> None:
        """Writes the model in float16."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.half().contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(self.config, indent=1) + "\n")


def pieces(text: str) -> list[int]:
    """The rows of a text's words and of their pieces of three letters; one row alone for a text without words."""
    found = []
    for word in _WORD.findall(text.lower()):
        framed = f"<{word}>"
        found += [framed, *(framed[k : k + 3] for k in range(len(framed) - 2))]
    return [zlib.crc32(piece.encode()) % ROWS for piece in found or ["<>"]]


def load_contrast(folder: Path | str = SHIPPED_BASE) -> Contrast:
    """A model that `Contrast.save` wrote, by default the one that ships, "tether".

    Raises:
        TetherError: if there is none, or its files are damaged.
    """
    path = shipped("contrast") if folder == SHIPPED_BASE else Path(folder)
    try:
        config = json.loads((path / "config.json").read_text())
        model = Contrast(**config)
        model.load_state_dict({k: v.float() for k, v in load_file(path / "model.safetensors").items()})
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        line = (str(error).splitlines() or ["no message"])[0]
        raise TetherError(f"no contrastive model can be opened at {path}: {line}") from None
    return model.eval().requires_grad_(False)


def frechet_distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """|m - m'|² + tr(C + C' - 2 (C C')^(1/2)) of two sets of features, `(N, D)` and `(M, D)`.

    Raises:
        TetherError: when one of them has fewer than two.
    """
    if min(len(ours), len(theirs)) < 2:
        raise TetherError(f"a Frechet distance needs two pictures or more of each, got {len(ours)} and {len(theirs)}")
    means = [each.mean(axis=0) for each in (ours, theirs)]
    first, second = (np.cov(each, rowvar=False).reshape(each.shape[1], -1) for each in (ours, theirs))
    # tr (C C')^(1/2): the roots of the eigenvalues of C^(1/2) C' C^(1/2), which is symmetric.
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(min=0)).sum()
    return float(np.square(means[0] - means[1]).sum() + np.trace(first) + np.trace(second) - 2 * shared)


CONTRAST = Measure("contrast", "picture-text agreement", digits=1)
