"""The judge of scenes: a small network that sees a picture and says its depth, normals, classes and joints.

It was trained on rendered scenes with their exact maps alone (`recipes/judges.py`), half of them after a round trip
through the autoencoder, never on a picture that a diffusion model drew. So it can say whether a drawn picture has the
depth that was asked for. What it says of the sources of the conditions, the pictures that the exact maps belong to, is
its own error, and stands beside every score.

    pixels, 2 x 2 of them as channels -> U-Net from 64 x 64 down to 4 x 4 -> heads at 64 x 64

The maps have 2 x 2 pixels in the channels of each place (pixel shuffle), the joints a heat map each.
"""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, pixel_shuffle, pixel_unshuffle

from tether.datasets.synthetic.scenes import CLASS_NAMES
from tether.datasets.synthetic.scenes.maps import CLASS_COLORS
from tether.errors import TetherError
from tether.kinds.openpose import JOINT_COLORS
from tether.weights import shipped

__all__ = ["JUDGED", "Judge", "JudgeNetwork", "Verdict", "load_judge"]

JUDGED = ("depth", "normal", "seg", "openpose")
"""The kinds whose maps it finds."""
LAYOUT = "scenes"
"""The set whose pictures it knows."""
SIDE = 128
CLASSES, JOINTS = len(CLASS_NAMES), len(JOINT_COLORS)
CERTAIN = 0.35
"""The height of a heat map from which on it shows a joint."""


class Verdict:
    """What the network says of a batch.

    Attributes:
        depth: from 0 to 1, near is 1, `(B, 1, H, W)`.
        normals: x right, y up, z to the viewer, not of length 1, `(B, 3, H, W)`.
        classes: logits of `CLASS_NAMES`, `(B, 8, H, W)`.
        joints: logits of a heat map for each joint, `(B, 18, H/2, W/2)`.
    """

    def __init__(self, maps: Tensor, joints: Tensor) -> None:
        self.depth, self.normals, self.classes = maps.split((1, 3, CLASSES), dim=1)
        self.joints = joints


class _Block(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class JudgeNetwork(nn.Module):
    """The network.

    Args:
        widths: channels at 64 x 64, 32 x 32, ... of a picture of 128 x 128.
    """

    def __init__(self, widths: tuple[int, ...] = (24, 32, 40, 48, 48)) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.stem = nn.Conv2d(4 * 5, widths[0], 3, padding=1)
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), _Block(b)) for a, b in pairs)
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairs)
        self.merge = nn.ModuleList(_Block(a) for a, _ in pairs)
        self.head = nn.Sequential(nn.GroupNorm(8, widths[0]), nn.SiLU())
        self.maps = nn.Conv2d(widths[0], 4 * (1 + 3 + CLASSES), 3, padding=1)
        self.joints = nn.Conv2d(widths[0], JOINTS, 3, padding=1)

    def forward(self, pixels: Tensor) -> Verdict:
        """Args: pixels: `(B, 3, H, W)` in [-1, 1], H and W multiples of 32."""
        x = self.stem(pixel_unshuffle(torch.cat([pixels, _places(pixels)], dim=1), 2))
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        for up, merge in zip(reversed(self.up), reversed(self.merge), strict=True):
            x = merge(interpolate(up(x), scale_factor=2.0, mode="nearest") + skips.pop())
        x = self.head(x)
        return Verdict(pixel_shuffle(self.maps(x), 2), self.joints(x))


def _places(pixels: Tensor) -> Tensor:
    """Two channels with x and y of each pixel, from -1 to 1."""
    batch, _, height, width = pixels.shape
    y, x = (torch.linspace(-1, 1, n, device=pixels.device, dtype=pixels.dtype) for n in (height, width))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))[None].expand(batch, -1, -1, -1)


class Judge:
    """Finds the maps of pictures of scenes.

    Args:
        network: the network.
    """

    def __init__(self, network: JudgeNetwork) -> None:
        self.network = network.eval().requires_grad_(False)

    def find(self, kind: str, image: Image.Image) -> Image.Image:
        """The map of a kind in a picture, RGB, of its size.

        A picture of another size than 128 x 128 is resized for the network, and the map is resized back. Of a pose the
        joints are drawn, without limbs: which joints belong to one figure is not known.

        Raises:
            TetherError: for a kind that it does not find.
        """
        if kind not in JUDGED:
            raise TetherError(f"the judge of scenes finds {', '.join(JUDGED)}, not {kind}")
        verdict = self.look(image)
        if kind == "openpose":
            return Image.fromarray(_draw_joints(_peaks(verdict.joints[0]), image.size))
        found = {"depth": _depth, "normal": _normal, "seg": _seg}[kind](verdict)
        method = Image.Resampling.NEAREST if kind == "seg" else Image.Resampling.BILINEAR
        return Image.fromarray(found).resize(image.size, method)

    def classes(self, image: Image.Image) -> np.ndarray:
        """The class of each pixel, indices into `CLASS_NAMES`, `(128, 128)`."""
        return self.look(image).classes[0].argmax(dim=0).numpy()

    @torch.no_grad()
    def look(self, image: Image.Image) -> Verdict:
        """The verdict on one picture."""
        small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX if max(image.size) > SIDE else None)
        pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() / 127.5 - 1
        return self.network(pixels)


@cache
def load_judge(folder: Path | None = None) -> Judge:
    """The judge in a folder; by default the shipped one.

    Raises:
        TetherError: if there is none, or its files are damaged.
    """
    path = folder or shipped("judges")
    try:
        config = json.loads((path / "config.json").read_text())
        network = JudgeNetwork(tuple(config["widths"]))
        tensors = {name: tensor.float() for name, tensor in load_file(path / "model.safetensors").items()}
        network.load_state_dict(tensors)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        line = (str(error).splitlines() or ["no message"])[0]
        raise TetherError(f"the judge in {path} cannot be opened: {line}") from None
    return Judge(network)


def _depth(verdict: Verdict) -> np.ndarray:
    levels = (verdict.depth[0, 0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return levels[..., None].repeat(3, axis=2)


def _normal(verdict: Verdict) -> np.ndarray:
    unit = torch.nn.functional.normalize(verdict.normals[0], dim=0)
    return ((unit + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()


def _seg(verdict: Verdict) -> np.ndarray:
    palette = np.array([CLASS_COLORS[name] for name in CLASS_NAMES], np.uint8)
    return palette[verdict.classes[0].argmax(dim=0).numpy()]


def _peaks(logits: Tensor) -> list[tuple[int, float, float]]:
    """The joints in heat maps `(18, h, w)`: number, and x and y as shares of the sides."""
    heat = logits.sigmoid()
    highest = max_pool2d(heat[None], 5, stride=1, padding=2)[0]
    found = []
    for number, y, x in ((heat == highest) & (heat >= CERTAIN)).nonzero().tolist():
        top, left = max(y - 1, 0), max(x - 1, 0)
        near = heat[number, top : y + 2, left : x + 2]
        rows = torch.arange(top, top + near.shape[0]) + 0.5
        columns = torch.arange(left, left + near.shape[1]) + 0.5
        total = near.sum()
        place = (near.sum(0) @ columns / total / heat.shape[2], near.sum(1) @ rows / total / heat.shape[1])
        found.append((number, float(place[0]), float(place[1])))
    return found


def _draw_joints(joints: list[tuple[int, float, float]], size: tuple[int, int]) -> np.ndarray:
    """Joints as discs on black, uint8 `(H, W, 3)`; the middle of each is on top of all discs."""
    width, height = size
    canvas = np.zeros((height, width, 3), np.uint8)
    places = [(n, min(int(x * width), width - 1), min(int(y * height), height - 1)) for n, x, y in joints]
    for radius in (max(1, round(min(size) * 4 / 512)), 0):
        for number, x, y in places:
            cv2.circle(canvas, (x, y), radius, JOINT_COLORS[number], -1)
    return canvas
