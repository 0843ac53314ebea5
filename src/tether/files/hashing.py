"""SHA-256 of files and of networks, in hexadecimal.

The digests are recorded in data sets, latent caches and checkpoints, so what is hashed, and in which order, is part of
those formats. A tensor is hashed as the line "NAME DTYPE SHAPE" and its bytes in C order, whatever its memory layout
and device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # hashing a file does not need torch
    from torch import Tensor, nn

__all__ = ["add_tensors", "hash_file", "hash_modules"]


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_modules(modules: Mapping[str, nn.Module]) -> str:
    """SHA-256 over every parameter and buffer of named networks; tensors on "meta" (released) are skipped."""
    digest = hashlib.sha256()
    for prefix, module in modules.items():
        tensors = module.state_dict().items()
        add_tensors(digest, ((f"{prefix}.{name}", tensor) for name, tensor in tensors if not tensor.is_meta))
    return digest.hexdigest()


def add_tensors(digest: Any, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Updates a hashlib digest with named tensors, in the order given."""
    import torch

    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
