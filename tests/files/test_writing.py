"""What is written is read back by the libraries that define the formats, and never replaces anything by mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tether.errors import TetherError
from tether.files.writing import replacing, write_json, write_safetensors, write_torch

TENSORS = {
    "a": torch.randn(3, 5).half(),
    "b": torch.randn(7).bfloat16(),
    "c": torch.randn(2, 3, 4),
    "d": torch.arange(9),
    "e": torch.tensor([True, False]),
    "f": torch.randn(4, 6).T,
    "g": torch.zeros(0, 3),
    "h": torch.tensor(3.5, dtype=torch.float64),
}


def test_safetensors_reads_every_type_that_is_written(tmp_path: Path) -> None:
    size = write_safetensors(tmp_path / "a.safetensors", TENSORS, metadata={"key": "value"})
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == TENSORS.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in TENSORS.items()
    )
    assert size == (tmp_path / "a.safetensors").stat().st_size
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "key": "value"}


def test_only_floating_point_is_cast(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", TENSORS, torch.bfloat16)
    found = load_file(tmp_path / "a.safetensors")
    assert {name for name, tensor in found.items() if tensor.dtype != torch.bfloat16} == {"d", "e"}
    assert torch.equal(found["c"], TENSORS["c"].bfloat16())


def test_pytorch_reads_what_is_written_and_views_take_no_more_than_they_show(tmp_path: Path) -> None:
    large = torch.randn(1000, 1000)
    size = write_torch(tmp_path / "a.pth", {"view": large[:2], "turned": large[:3].T})
    found = torch.load(tmp_path / "a.pth", weights_only=True)["state_dict"]
    assert torch.equal(found["view"], large[:2])
    assert torch.equal(found["turned"], large[:3].T)
    assert size == (tmp_path / "a.pth").stat().st_size < 30_000


def test_values_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    for write in (write_safetensors, write_torch):
        with pytest.raises(TetherError, match="a contains NaN or infinity"):
            write(tmp_path / "a", {"a": torch.tensor([float("nan")])})


def test_json_is_sorted_and_its_folder_is_made(tmp_path: Path) -> None:
    write_json(tmp_path / "x" / "a.json", {"b": 1, "a": [2]})
    assert (tmp_path / "x" / "a.json").read_text() == '{\n  "a": [\n    2\n  ],\n  "b": 1\n}\n'


def test_a_model_is_replaced_only_if_forced(tmp_path: Path) -> None:
    write_json(tmp_path / "model" / "config.json", {})
    with pytest.raises(TetherError, match="already exists: use --force"), replacing(tmp_path / "model", force=False):
        raise AssertionError
    with replacing(tmp_path / "model", force=True) as part:
        write_json(part / "config.json", {"new": True})
    assert "new" in (tmp_path / "model" / "config.json").read_text()


def test_a_folder_of_other_things_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"precious")
    refused = pytest.raises(TetherError, match=r"refusing to overwrite .*photos: it is a folder that contains no model")
    with refused, replacing(tmp_path / "photos", force=True):
        raise AssertionError
    assert (tmp_path / "photos" / "cat.png").read_bytes() == b"precious"
