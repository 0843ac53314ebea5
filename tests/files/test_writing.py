"""What is written is read back by the libraries that define the formats, and never replaces anything by mistake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tether.errors import TetherError
from tether.files.checkpoints import open_checkpoint
from tether.files.writing import check_may_replace, replacing, write_json, write_safetensors, write_torch

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


def test_empty_tensors_of_an_open_file_are_written(tmp_path: Path) -> None:
    """They have the address of the tensor after them, whose type is another."""
    write_safetensors(tmp_path / "a.safetensors", {"v_pred": torch.zeros(0), "w": torch.ones(4).half()})
    opened = open_checkpoint(tmp_path / "a.safetensors").tensors
    write_torch(tmp_path / "a.ckpt", opened)
    found = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert found["v_pred"].shape == (0,)
    assert torch.equal(found["w"], opened["w"])


def test_only_a_failed_write_is_put_down_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for message, expected in (
        ("unexpected pos 704 vs 598", "the disk may be full"),
        ("views of one", "^views of one$"),
    ):

        def fail(*_: object, message: str = message) -> None:
            raise RuntimeError(message)

        monkeypatch.setattr(torch, "save", fail)
        with pytest.raises(OSError, match=expected):
            write_torch(tmp_path / "a.ckpt", TENSORS)


def test_values_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    for write in (write_safetensors, write_torch):
        with pytest.raises(TetherError, match="a contains NaN or infinity"):
            write(tmp_path / "a", {"a": torch.tensor([float("nan")])})


def test_json_is_sorted_and_its_folder_is_made(tmp_path: Path) -> None:
    write_json(tmp_path / "x" / "a.json", {"b": 1, "a": [2]})
    assert (tmp_path / "x" / "a.json").read_text() == '{\n  "a": [\n    2\n  ],\n  "b": 1\n}\n'


def test_a_model_is_replaced_only_if_forced(tmp_path: Path) -> None:
    write_json(tmp_path / "model" / "config.json", {"_class_name": "ControlNetModel"})
    with pytest.raises(TetherError, match="already exists: use --force"), replacing(tmp_path / "model", force=False):
        raise AssertionError
    with replacing(tmp_path / "model", force=True, folder_of="control") as part:
        write_json(part / "config.json", {"new": True})
    assert "new" in (tmp_path / "model" / "config.json").read_text()


@pytest.mark.parametrize("force", [True, False])
def test_a_name_that_no_file_can_have_is_refused(force: bool, tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="cannot be written: File name too long"):  # noqa: SIM117
        with replacing(tmp_path / ("x" * 300), force=force):
            raise AssertionError


BASE = {"model_index.json": "{}", "unet/config.json": "{}", "tokenizer/merges.txt": "", "README.md": "a base"}


@pytest.mark.parametrize(
    ("folder_of", "files", "reason"),
    [
        ("control", {"cat.png": "precious"}, "it is a folder that contains no control"),
        ("control", {"config.json": "{}", "src/main.py": "precious"}, "it is a folder that contains no control"),
        ("control", {"config.json": '{"_class_name": "UNet2DConditionModel"}'}, "contains no control"),
        ("control", BASE, "contains no control"),
        ("control", {"config.json": '{"tether_family": "x"}', "state.json": "{}"}, "it contains state.json, which"),
        ("control", {"config.json": '{"tether_family": "x"}', ".git/HEAD": ""}, "it contains .git/HEAD, which is no"),
        ("base", {"config.json": '{"_class_name": "ControlNetModel"}'}, "contains no base"),
        ("base", BASE | {"v1-5-pruned.safetensors": ""}, "it contains v1-5-pruned.safetensors, which is no part of"),
        ("base", BASE | {"unet/notes.txt": ""}, "it contains unet/notes.txt, which is no part of a base"),
        (None, {"config.json": '{"_class_name": "ControlNetModel"}'}, "it is a folder, expected a file"),
        ("model", {"cat.png": "precious"}, "it is a folder that contains no model"),
        ("model", BASE | {"cat.png": "precious"}, "it contains cat.png, which is no part of a base"),
        ("control", {"config.json": "{"}, "config.json is not valid JSON"),
        ("control", {"config.json": '{"model_type": "clip_text_model"}'}, "contains no control"),
    ],
)
def test_a_folder_with_anything_but_such_a_model_in_it_is_never_replaced(
    folder_of: Any, files: dict[str, str], reason: str, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / "there" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "there" / name).write_text(text)
    refused = pytest.raises(TetherError, match=f"refusing to overwrite .*there: .*{re.escape(reason)}")
    with refused, replacing(tmp_path / "there", force=True, folder_of=folder_of):
        raise AssertionError
    assert {name: (tmp_path / "there" / name).read_text() for name in files} == files


def test_a_base_and_an_empty_folder_are_replaced(tmp_path: Path) -> None:
    for name, text in BASE.items():
        (tmp_path / "base" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "base" / name).write_text(text)
    for name in (".DS_Store", "unet/.DS_Store", ".cache/huggingface/download/unet/config.json.metadata"):
        (tmp_path / "base" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "base" / name).touch()
    (tmp_path / "empty").mkdir()
    for name in ("base", "empty"):
        with replacing(tmp_path / name, force=True, folder_of="base") as part:
            write_json(part / "model_index.json", {"new": True})
        assert [path.name for path in (tmp_path / name).iterdir()] == ["model_index.json"]


def test_a_control_is_replaced_without_its_class_too_but_not_with_a_folder_that_is_a_link(tmp_path: Path) -> None:
    write_json(tmp_path / "control" / "config.json", {"cross_attention_dim": 64})
    check_may_replace(tmp_path / "control", force=True, folder_of="control")
    (tmp_path / "far").mkdir()
    (tmp_path / "control" / "more").symlink_to(tmp_path / "far")
    with pytest.raises(TetherError, match="it contains more, which is a link; give another name, or move that away"):
        check_may_replace(tmp_path / "control", force=True, folder_of="control")
