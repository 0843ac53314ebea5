"""Draws the images that recipes/mixture.py planned, many at a time on any device, and says where their things are.

With the background b and for each layer, from the back to the front, its colors c multiplied by its coverage α, placed,

    image = b;   image = c + (1 - α) image
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from grounding import GROUPS, PLACES

FIRST_THING = 2
"""The group of the first layer; 0 is the background, and 1, a scene's floor, is not in composed images."""
SMALL = 0.6
"""Layers narrower than this share of the image are drawn from copies of half the size, as bilinear sampling skips
pixels."""


class Compositor:
    """The images of a file of plans.

    Args:
        bank: recipes/bank.py's file.
        mixture: recipes/mixture.py's file.
        device: where drawings are kept and images are drawn.

    Attributes:
        counts: how many images there are of each kind, in the file's order.
        captions: `CAPTIONS` of each image.
        tokens, words: of the captions, `(N, CAPTIONS, TOKENS)` and `(N, CAPTIONS, GROUPS)`, see samples.py.
    """

    def __init__(self, bank: Path, mixture: Path, device: torch.device) -> None:
        with np.load(bank) as file:
            self.drawings = torch.from_numpy(file["rgba"]).permute(0, 3, 1, 2).contiguous().to(device)
            self.backdrops = torch.from_numpy(file["backdrops"]).permute(0, 3, 1, 2).contiguous().to(device)
        with np.load(mixture) as file:
            self.layers = torch.from_numpy(file["layers"]).to(device)
            self.backgrounds = torch.from_numpy(file["backgrounds"]).long().to(device)
            self.tokens, self.words = file["tokens"], file["words"]
            self.captions: list[list[str]] = json.loads(str(file["captions"]))
            self.counts: dict[str, int] = json.loads(str(file["counts"]))
        self.halves = torch.cat([_halved(part) for part in self.drawings.split(1024)])

    def __len__(self) -> int:
        return len(self.layers)

    def first(self, kind: str) -> int:
        """The number of the first plan of a kind."""
        kinds = list(self.counts)
        return sum(self.counts[each] for each in kinds[: kinds.index(kind)])

    def draw(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The images of these plans, and where their things are.

        Args:
            rows: numbers of plans, `(B,)`.

        Returns:
            Pixels, uint8 `(B, H, W, 3)`, and the share of each place that each group covers, uint8
            `(B, GROUPS, PLACES, PLACES)`.
        """
        picture = self.backdrops[self.backgrounds[rows]].float()
        layers = self.layers[rows]
        covered = torch.zeros(len(rows), GROUPS, PLACES, PLACES, device=picture.device)
        covered[:, 0] = 1
        for k in range(layers.shape[1]):
            shown = layers[:, k, 0] >= 0
            if not shown.any():
                continue
            drawn = self._layer(layers[shown, k])
            alpha = drawn[:, 3:] / 255
            picture[shown] = drawn[:, :3] + (1 - alpha) * picture[shown]
            share = F.adaptive_avg_pool2d(alpha, PLACES)
            covered[shown] = covered[shown] * (1 - share)
            covered[shown, FIRST_THING + k] = share[:, 0]
        pixels = picture.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return pixels, (255 * covered).round().to(torch.uint8)

    def _layer(self, layer: Tensor) -> Tensor:
        """Placed drawings, `(B, 4, H, W)` in 0..255, colors multiplied by alpha; `layer` is `(B, 5)`."""
        number, (x, y, scale, flip) = layer[:, 0].long(), layer[:, 1:].unbind(1)
        side = self.drawings.shape[-1]
        # From a place u in [-1, 1] of the image to the drawing's: (u - (2 x - 1)) / scale, mirrored where flipped.
        turn = 1 - 2 * flip
        zero = torch.zeros_like(x)
        across = torch.stack([turn / scale, zero, -turn * (2 * x - 1) / scale], dim=1)
        down = torch.stack([zero, 1 / scale, -(2 * y - 1) / scale], dim=1)
        grid = F.affine_grid(torch.stack([across, down], dim=1), [len(layer), 4, side, side], align_corners=False)
        drawn = torch.empty(len(layer), 4, side, side, device=layer.device)
        for bank, here in ((self.drawings, scale >= SMALL), (self.halves, scale < SMALL)):
            if here.any():
                drawn[here] = F.grid_sample(bank[number[here]].float(), grid[here], align_corners=False)
        return drawn


def _halved(drawings: Tensor) -> Tensor:
    """uint8 `(N, 4, H, W)` at half the size."""
    return F.avg_pool2d(drawings.float(), 2).round().to(torch.uint8)
