"""Digests are recorded in files: what they are of must not change."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

from tether.files.hashing import add_tensors, hash_file, hash_modules


def test_a_file_is_hashed_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert hash_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4


def test_a_tensor_is_hashed_as_its_description_and_its_bytes() -> None:
    digest = hashlib.sha256()
    add_tensors(digest, [("w", torch.tensor([[1, 2]], dtype=torch.int16)), ("none", torch.zeros(0))])
    content = b"w torch.int16 (1, 2)\n\x01\x00\x02\x00none torch.float32 (0,)\n"
    assert digest.hexdigest() == hashlib.sha256(content).hexdigest()


def test_networks_differ_by_name_and_number_and_not_by_memory_layout() -> None:
    conv = nn.Conv2d(2, 3, 3)
    before = hash_modules({"conv": conv})
    assert hash_modules({"conv": conv.to(memory_format=torch.channels_last)}) == before  # type: ignore[call-overload]
    assert hash_modules({"other": conv}) != before
    with torch.no_grad():
        conv.weight[0, 0, 0, 0] += 1
    assert hash_modules({"conv": conv}) != before


def test_networks_are_hashed_in_the_order_of_their_state() -> None:
    network = nn.Linear(1, 1, bias=True)
    with torch.no_grad():
        network.weight.fill_(1)
        network.bias.fill_(0)
    content = b"unet.weight torch.float32 (1, 1)\n\x00\x00\x80?unet.bias torch.float32 (1,)\n\x00\x00\x00\x00"
    assert hash_modules({"unet": network}) == hashlib.sha256(content).hexdigest()


def test_released_weights_are_skipped() -> None:
    kept = nn.Linear(2, 2)
    assert hash_modules({"a": kept, "b": nn.Linear(2, 2, device="meta")}) == hash_modules({"a": kept})
