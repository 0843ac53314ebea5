"""Weights in little space, for the way to a machine with a GPU and back.

Out: matrices and kernels as int8 with one scale a row, w ≈ s q with s = max |w| / 127, all else as float16. A round of
training that starts from them soon makes up for the rounding. Back: float16, in pieces of at most `PIECE` bytes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor

PIECE = 16_700_000
"""Bytes of a file that comes back at most: 16 MiB are 16,777,216."""
SCALE = ".scale"


def quantize(source: Path, target: Path) -> None:
    """Writes the tensors of a safetensors file with every matrix and kernel of 4,096 values or more as int8."""
    packed: dict[str, Tensor] = {}
    for name, tensor in load_file(source).items():
        if tensor.ndim < 2 or tensor.numel() < 4096:
            packed[name] = tensor.half()
            continue
        rows = tensor.float().flatten(1)
        scale = (rows.abs().amax(dim=1) / 127).clamp(min=1e-12)
        packed[name] = (rows / scale[:, None]).round().to(torch.int8).reshape(tensor.shape)
        packed[name + SCALE] = scale
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(packed, target)


def restore(source: Path, target: Path) -> None:
    """Undoes `quantize`: all tensors as float16."""
    packed = load_file(source)
    tensors = {}
    for name, tensor in packed.items():
        if tensor.dtype == torch.int8:
            scale = packed[name + SCALE].reshape(-1, *[1] * (tensor.ndim - 1))
            tensors[name] = (tensor.float() * scale).half()
        elif not name.endswith(SCALE):
            tensors[name] = tensor
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target, metadata={"format": "pt"})


def split(source: Path, target: Path) -> list[Path]:
    """Writes a safetensors file's tensors as float16 to `target`.0, `target`.1 and so on; returns these.

    Raises:
        ValueError: where a tensor does not fit float16.
    """
    halves = {name: t.half().contiguous() if t.is_floating_point() else t for name, t in load_file(source).items()}
    if not all(bool(tensor.isfinite().all()) for tensor in halves.values()):
        raise ValueError(f"{source} does not fit float16")
    whole, pieces = save(halves, metadata={"format": "pt"}), []
    for number, start in enumerate(range(0, len(whole), PIECE)):
        pieces.append(target.with_name(f"{target.name}.{number}"))
        pieces[-1].write_bytes(whole[start : start + PIECE])
    return pieces


def join(source: Path, target: Path) -> None:
    """Undoes `split`.

    Raises:
        FileNotFoundError: where there is no piece.
        safetensors.SafetensorError: where the pieces are not a whole file.
    """
    pieces = sorted(source.parent.glob(f"{source.name}.*"), key=lambda path: int(path.suffix[1:]))
    if not pieces:
        raise FileNotFoundError(source)
    whole = b"".join(path.read_bytes() for path in pieces)
    load(whole)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(whole)
