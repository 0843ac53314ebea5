"""Opens files of tensors, assuming that they may be hostile.

A file has a table (name -> type, shape, offsets) and bytes. The table is checked against the size of the file, and the
bytes are mapped, not read, so opening 4 GB costs nothing until a tensor is used:

    safetensors     8 bytes: length of the header; the header, JSON; the bytes
    PyTorch (zip)   `data.pkl`, the table as a pickle of tensors only; `data/N`, the bytes, stored uncompressed

Every defect is one TetherError, raised before memory is allocated for what the file declares.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tether.errors import TetherError
from tether.files.pickles import read_torch_zip

__all__ = ["Checkpoint", "open_checkpoint", "open_shards"]

MAX_HEADER = 4 * 2**20
"""SDXL's header has 0.3 MB, and trainers add a few MB of metadata. Parsing 4 MB takes a second and 100 MB of memory."""
MAX_DIMENSIONS, MAX_NAME = 64, 250
"""PyTorch's own limit of dimensions, and the most characters of a tensor's name."""

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


@dataclass
class Checkpoint:
    """An open file of tensors.

    Attributes:
        path: the file, or the index of several.
        tensors: name -> tensor, mapped from the file.
        metadata: strings in the file beside the tensors.
        numbers: numbers in the file beside the tensors: `global_step`, ...
    """

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Opens a safetensors file, or a PyTorch file that contains only tensors.

    The first bytes decide which of the two it is, not the name.

    Raises:
        TetherError: if the file is missing, of another format, damaged, or contains anything but tensors.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(64)
        size = path.stat().st_size
    except OSError as error:
        raise TetherError(f"cannot read {path}: {error.strerror or error}") from None
    if start.startswith(b"PK\x03\x04"):
        tensors, numbers = read_torch_zip(path)
        return Checkpoint(path, tensors, numbers=numbers)
    _refuse_other_kinds(path, start, size)
    return _open_safetensors(path, size)


def open_shards(index: Path) -> Checkpoint:
    """Opens the shards listed in a `*.safetensors.index.json` as one checkpoint.

    Raises:
        TetherError: if the index is damaged, or a tensor is not in the shard that it names.
    """
    try:
        if index.stat().st_size > MAX_HEADER:
            raise TetherError(f"{index} has {index.stat().st_size:,} bytes: an index may have at most {MAX_HEADER:,}")
        places = json.loads(index.read_text())["weight_map"]
        names = sorted(set(places.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise TetherError(f"{index} is not a valid index of shards: expected a weight_map") from None
    if any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise TetherError(f"{index} names files outside its folder: expected file names only")
    files = {name: open_checkpoint(index.parent / name).tensors for name in names}
    missing = [name for name, file in places.items() if name not in files[file]]
    if missing:
        raise TetherError(f"{index} is inconsistent: {places[missing[0]]} does not contain {missing[0]}")
    return Checkpoint(index, {name: files[file][name] for name, file in places.items()})


def _refuse_other_kinds(path: Path, start: bytes, size: int) -> None:
    """Refuses files that people open by mistake, by what they are."""
    if size < 10:
        raise TetherError(f"{path} has only {size} bytes: expected a file of tensors; the download may be incomplete")
    if start.startswith(b"version https://git-lfs"):
        raise TetherError(f"{path} is a Git LFS pointer, not the weights: fetch them with git lfs pull")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise TetherError(f"{path} is a web page, not weights: download the file itself")
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and start[8:9] != b"{":
        raise TetherError(f"{path} is a pickle of PyTorch before 1.6, which can run code: save it again as safetensors")
    if start[8:9] != b"{":
        raise TetherError(f"{path} is neither a safetensors nor a PyTorch file (it starts with {start[:8]!r})")


def _open_safetensors(path: Path, size: int) -> Checkpoint:
    table = _checked_header(path, size)
    metadata = table.pop("__metadata__", None) or {}
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in table}
    except (SafetensorError, OSError, RuntimeError, ValueError, MemoryError) as error:
        raise TetherError(f"{path} is damaged: {str(error).splitlines()[0]}") from None
    return Checkpoint(path, tensors, metadata if isinstance(metadata, dict) else {})


def _checked_header(path: Path, size: int) -> dict[str, Any]:
    """The header, after checking that each tensor has as many bytes as its shape needs, inside the file."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > MAX_HEADER:
            raise TetherError(f"{path} declares a header of {length:,} bytes: at most {MAX_HEADER:,} are allowed")
        if 8 + length > size:
            raise TetherError(f"{path} is truncated: its header has {length:,} bytes, the file {size:,}")
        header = file.read(length)
    try:
        table = json.loads(header)
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise TetherError(f"{path} is damaged: its header is not a table of tensors")
    for name, entry in table.items():
        if name != "__metadata__":
            _check_place(path, name, entry, room=size - 8 - length)
    return table


def _check_place(path: Path, name: str, entry: Any, room: int) -> None:
    try:
        kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        sides = [*shape, begin, end]
        if len(shape) > MAX_DIMENSIONS or len(name) > MAX_NAME or not isinstance(kind, str):
            raise TypeError
        if any(not isinstance(side, int) or isinstance(side, bool) or not 0 <= side < 2**63 for side in sides):
            raise TypeError
        if begin > end:
            raise TypeError
    except (KeyError, TypeError, ValueError):
        raise TetherError(f"{path} is damaged: its header has no valid entry for {name[:MAX_NAME]}") from None
    if kind not in ITEM_BYTES:
        raise TetherError(f"{path} stores {name} as {kind[:20]}, which is not supported: save it as F16, BF16 or F32")
    if end > room:
        raise TetherError(f"{path} is truncated: {name} ends at byte {end:,}, the file has {room:,} bytes of tensors")
    if math.prod(shape) * ITEM_BYTES[kind] != end - begin:
        raise TetherError(
            f"{path} has an inconsistent header: it declares {name} as {str(shape)[:100]} of {kind}, and stores "
            f"{end - begin:,} bytes"
        )
