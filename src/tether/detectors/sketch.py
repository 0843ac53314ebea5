"""Line art by the network of "Learning to generate line drawings that convey geometry and semantics" (Chan, Durand and
Isola, arXiv:2203.12691), with the user's own weights, such as `sk_model.pth`.

    7x7 convolution, two that halve, three residual blocks, two that double, 7x7 convolution, sigmoid

Its output is dark lines on white, which are inverted.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from tether.detectors.sizes import reduced
from tether.detectors.store import location
from tether.errors import TetherError
from tether.files.checkpoints import open_checkpoint
from tether.files.hub import find

__all__ = ["Sketch", "sketch_map"]

WIDTHS, BLOCKS, MULTIPLE = (64, 128, 256), 3, 4


class Sketch(nn.Module):
    """`(B, 3, H, W)` in [0, 1], sides multiples of 4, -> `(B, 1, H, W)` in [0, 1], lines are 0."""

    def __init__(self, blocks: int = BLOCKS) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.model0 = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(3, first, 7), nn.InstanceNorm2d(first), nn.ReLU())
        self.model1 = nn.Sequential(*_halved(first, second), *_halved(second, third))
        self.model2 = nn.Sequential(*(_Residual(third) for _ in range(blocks)))
        self.model3 = nn.Sequential(*_doubled(third, second), *_doubled(second, first))
        self.model4 = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(first, 1, 7), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """The drawing."""
        return self.model4(self.model3(self.model2(self.model1(self.model0(x)))))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        half = nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width)
        self.conv_block = nn.Sequential(
            *half, nn.ReLU(), nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


def _halved(inside: int, out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inside, out, 3, stride=2, padding=1), nn.InstanceNorm2d(out), nn.ReLU()


def _doubled(inside: int, out: int) -> tuple[nn.Module, ...]:
    up = nn.ConvTranspose2d(inside, out, 3, stride=2, padding=1, output_padding=1)
    return up, nn.InstanceNorm2d(out), nn.ReLU()


def sketch_map(pixels: np.ndarray) -> np.ndarray:
    """Lines of uint8 `(H, W, 3)` RGB, white on black: uint8 `(H, W)`; 0 for an image of one color.

    Raises:
        TetherError: when there are no weights, or they are not of this network.
    """
    height, width = pixels.shape[:2]
    if np.ptp(pixels, axis=(0, 1)).max() == 0:
        return np.zeros((height, width), np.uint8)
    network = _opened(str(location("lineart")))
    image = reduced(pixels)
    size = [max(2 * MULTIPLE, round(side / MULTIPLE) * MULTIPLE) for side in image.shape[1::-1]]
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    with torch.inference_mode():
        drawn = network(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0, 0].numpy()
    enlarged = cv2.resize(1 - drawn, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.round(enlarged.clip(0, 1) * 255).astype(np.uint8)


@lru_cache(maxsize=1)
def _opened(ref: str) -> Sketch:
    path = find(ref, "weights for the detector lineart", any_file=True)
    if path.is_dir():
        raise TetherError(f"{path} is a folder: expected a file of weights, such as sk_model.pth")
    tensors = open_checkpoint(path).tensors
    network = Sketch()
    wanted = network.state_dict()
    for name, tensor in wanted.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            raise TetherError(f"{path} is not of the network of informative drawings: it has no {name} of its shape")
    network.load_state_dict({name: tensors[name].float() for name in wanted})
    return network.eval()
