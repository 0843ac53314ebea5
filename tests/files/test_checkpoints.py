"""Files of tensors open in no memory; damaged and hostile ones are refused in one line, fast, in little memory."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tether.base import ControlNet, load_base
from tether.base.single_file import vae_of_file
from tether.files.checkpoints import MAX_HEADER, open_checkpoint, open_shards

from .hostile import (
    Builder,
    entry,
    header_of,
    huge_header,
    refused,
    written,
)

MALFORMED: dict[str, Builder] = {
    "empty": written("empty.safetensors", b""),
    "a few bytes": written("few.safetensors", b"\x01\x02\x03"),
    "wrong magic": written("magic.safetensors", os.urandom(8) + b"\x00" * 4096),
    "a web page": written("page.safetensors", b"<!DOCTYPE html><html><body>404</body></html>"),
    "a Git LFS pointer": written("lfs.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "header of 2 GB": huge_header,
    "header longer than the file": written("long.safetensors", struct.pack("<Q", 9999) + b'{"a":'),
    "header that is no JSON": written("json.safetensors", struct.pack("<Q", 16) + b"{" + b"x" * 15),
    "header that is a list": written("list.safetensors", struct.pack("<Q", 2) + b"[]" + b" " * 20),
    "header nested without end": written("deep.safetensors", struct.pack("<Q", 200_004) + b'{"a":' + b"[" * 199_999),
    "truncated tensors": written("short.safetensors", header_of({"a": entry("F32", [64], 0, 256)}, bytes(100))),
    "shape larger than its bytes": written(
        "lie.safetensors", header_of({"a": entry("F32", [2**20, 2**20], 0, 256)}, bytes(256))
    ),
    "offsets past the end": written("past.safetensors", header_of({"a": entry("F32", [2**40], 0, 2**42)}, bytes(64))),
    "offsets backwards": written("back.safetensors", header_of({"a": entry("F32", [4], 32, 16)}, bytes(64))),
    "negative shape": written("minus.safetensors", header_of({"a": entry("F32", [-4, -4], 0, 64)}, bytes(64))),
    "shape of 300,000 sides": written(
        "sides.safetensors", header_of({"a": entry("F32", [9] * 300_000, 0, 16)}, bytes(16))
    ),
    "a side of 4,000 digits": written(
        "digits.safetensors", header_of({"a": entry("F32", [10**4000] * 64, 0, 16)}, bytes(16))
    ),
    "a name of 1 MB": written("name.safetensors", header_of({"a" * 2**20: entry("F32", [5], 0, 16)}, bytes(16))),
    "unknown type": written("type.safetensors", header_of({"a": entry("F4711", [4], 0, 16)}, bytes(16))),
    "entry without a place": written("place.safetensors", header_of({"a": {"dtype": "F32"}}, bytes(16))),
    "tensors that overlap": written(
        "over.safetensors", header_of({"a": entry("F32", [4], 0, 16), "b": entry("F32", [4], 8, 24)}, bytes(24))
    ),
    "header of nothing but lists": written(
        "lists.safetensors", header_of({"a": [[]] * (MAX_HEADER // 4 - 4)}, bytes(16))
    ),
    "header of more than is believed": written(
        "more.safetensors", header_of({"a": [[]] * (MAX_HEADER // 4 + 4)}, bytes(16))
    ),
}
MESSAGES = {
    "empty": "has only 0 bytes",
    "a few bytes": "has only 3 bytes",
    "wrong magic": "is neither a safetensors nor a PyTorch file",
    "a web page": "is a web page, not weights",
    "a Git LFS pointer": "is a Git LFS pointer",
    "header of 2 GB": "declares a header of 2,147,483,648 bytes: at most 4,194,304 are allowed",
    "header longer than the file": "is truncated: its header has 9,999 bytes",
    "header that is no JSON": "its header is not a table of tensors",
    "header that is a list": "is neither a safetensors nor a PyTorch file",
    "header nested without end": "its header is not a table of tensors",
    "truncated tensors": "is truncated: a ends at byte 256, the file has 100",
    "shape larger than its bytes": "has an inconsistent header: it declares a as",
    "offsets past the end": "is truncated: a ends at byte",
    "offsets backwards": "has no valid entry for a",
    "negative shape": "has no valid entry for a",
    "shape of 300,000 sides": "has no valid entry for a",
    "a side of 4,000 digits": "has no valid entry for a",
    "a name of 1 MB": "has no valid entry for aaa",
    "unknown type": "stores a as F4711, which is not supported",
    "entry without a place": "has no valid entry for a",
    "tensors that overlap": "is damaged",
    "header of nothing but lists": "has no valid entry for a",
    "header of more than is believed": "declares a header of",
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_refused_in_one_line(case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = MALFORMED[case](tmp_path)
    assert path.name in refused(lambda: load_base(path), MESSAGES[case])
    assert "harm" not in capfd.readouterr().out


@pytest.mark.parametrize("case", ["truncated tensors", "header of 2 GB"])
@pytest.mark.parametrize("opens", [ControlNet.load, vae_of_file, open_checkpoint])
def test_whatever_opens_files_refuses_them(case: str, opens: Callable[[Path], Any], tmp_path: Path) -> None:
    path = MALFORMED[case](tmp_path)
    assert path.name in refused(lambda: opens(path), MESSAGES[case])


def test_opening_reads_nothing_of_the_tensors(tmp_path: Path) -> None:
    """A file of 8 GB (a hole) opens in no memory: its tensors are mapped."""
    path = tmp_path / "large.safetensors"
    side = 2**16
    head = header_of({"a": entry("F16", [side, side], 0, 2 * side * side)})
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + 2 * side * side)
    program = (
        "import resource, sys\n"
        "from tether.files.checkpoints import open_checkpoint\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"tensor = open_checkpoint({str(path)!r}).tensors['a']\n"
        f"assert tensor.shape == ({side}, {side}) and tensor[-1, -1] == 0\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 50 * 2**20


def test_an_index_of_shards_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "secret.safetensors")
    (tmp_path / "in").mkdir()
    index = tmp_path / "in" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    refused(lambda: open_shards(index), "names files outside its folder")
