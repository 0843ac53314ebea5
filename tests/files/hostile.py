"""Builds damaged and hostile files, and checks that they are refused fast, in little memory and in one line."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tether.errors import TetherError

SECONDS = 15.0
MEMORY = 200 * 2**20

Builder = Callable[[Path], Path]


def header_of(table: dict[str, Any], body: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file, by hand."""
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def written(name: str, content: bytes) -> Builder:
    def build(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return build


def entry(kind: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


def torch_bytes(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def members_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def torch_with_table(table: bytes) -> bytes:
    """A PyTorch file whose pickle is this one."""
    return zipped({**members_of(torch_bytes({"a": torch.zeros(4)})), "archive/data.pkl": table})


class Hostile:
    """Pickled, this is a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def huge_header(folder: Path) -> Path:
    path = folder / "header.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2 * 2**30) + b"{")
        file.truncate(2 * 2**30 + 4096)  # a hole: the file is that long and takes no room
    return path


def zip_bomb(folder: Path) -> Path:
    path = folder / "bomb.pth"
    members = members_of(torch_bytes({"a": torch.zeros(4)}))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            if "/data/" not in name:
                archive.writestr(name, content)
        with archive.open("archive/data/0", "w", force_zip64=True) as file:
            for _ in range(128):
                file.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    return path


def lying_pickle(shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A PyTorch file whose table gives the four numbers it has this shape."""
    table = members_of(torch_bytes({"a": torch.zeros(4)}))["archive/data.pkl"]

    def tuple_of(numbers: tuple[int, ...]) -> bytes:
        body = b"".join(b"\x8a\x08" + struct.pack("<q", number) for number in numbers)
        return b"(" + body + b"t"

    # The table says shape (4,) as K\x04 \x85 and stride (1,) as K\x01 \x85, each followed by a memo mark.
    before, rest = table.split(b"K\x04\x85", 1)
    rest = rest.split(b"K\x01\x85", 1)
    return torch_with_table(before + tuple_of(shape) + rest[0] + tuple_of(stride) + rest[1])


def peak_memory() -> int:
    """The most memory this process had at once since the last reset, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def refused(action: Callable[[], Any], message: str) -> str:
    """The one line an action is refused with, within `SECONDS` and `MEMORY`."""
    measured = sys.platform == "linux" and os.access("/proc/self/clear_refs", os.W_OK)
    if measured:
        Path("/proc/self/clear_refs").write_text("5")
        before = peak_memory()
    start = time.process_time()
    with pytest.raises(TetherError, match=re.escape(message)) as caught:
        action()
    assert time.process_time() - start < SECONDS
    if measured:
        assert peak_memory() - before < MEMORY
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert len(line) < 600
    return line
