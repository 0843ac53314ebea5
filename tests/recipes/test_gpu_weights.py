"""Weights on their way to a machine with a GPU and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import gpu_weights
from gpu_weights import join, quantize, restore, split


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    random = torch.Generator().manual_seed(0)
    tensors = {
        "matrix": torch.randn(64, 80, generator=random),
        "kernel": 0.01 * torch.randn(32, 16, 3, 3, generator=random),
        "zero": torch.zeros(64, 64),
        "small": torch.randn(3, 3, generator=random),
        "bias": torch.randn(64, generator=random),
    }
    save_file(tensors, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def test_quantized_matrices_are_restored_to_half_a_step(weights: Path, tmp_path: Path) -> None:
    quantize(weights, tmp_path / "packed" / "w.safetensors")
    restore(tmp_path / "packed" / "w.safetensors", tmp_path / "back" / "w.safetensors")
    before, after = load_file(weights), load_file(tmp_path / "back" / "w.safetensors")
    assert before.keys() == after.keys()
    assert all(tensor.dtype == torch.float16 for tensor in after.values())
    for name in ("matrix", "kernel", "zero"):
        step = before[name].flatten(1).abs().amax(dim=1) / 127
        error = (after[name].float() - before[name]).flatten(1).abs().amax(dim=1)
        assert (error <= 0.5 * step + 1e-3 * 127 * step).all(), name
    assert all(torch.equal(after[name], before[name].half()) for name in ("small", "bias"))
    assert (tmp_path / "packed" / "w.safetensors").stat().st_size < 0.3 * weights.stat().st_size


def test_split_files_are_joined_to_the_bit(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_weights, "PIECE", 2000)
    pieces = split(weights, tmp_path / "unet")
    assert len(pieces) > 10
    assert all(piece.stat().st_size <= 2000 for piece in pieces)
    join(tmp_path / "unet", tmp_path / "joined" / "w.safetensors")
    before, after = load_file(weights), load_file(tmp_path / "joined" / "w.safetensors")
    assert all(torch.equal(after[name], tensor.half()) for name, tensor in before.items())


def test_a_missing_piece_is_noticed(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_weights, "PIECE", 2000)
    split(weights, tmp_path / "unet")[-1].unlink()
    with pytest.raises(SafetensorError):
        join(tmp_path / "unet", tmp_path / "w.safetensors")
    with pytest.raises(FileNotFoundError):
        join(tmp_path / "other", tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


def test_weights_that_do_not_fit_float16_are_refused(tmp_path: Path) -> None:
    save_file({"large": torch.full((2,), 1e6)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="does not fit float16"):
        split(tmp_path / "w.safetensors", tmp_path / "w")
