"""A conversion replaces nothing that it reads, and nothing that it should not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tether.base import ControlNet
from tether.conversion import convert
from tether.errors import TetherError


@pytest.mark.parametrize("argument", ["source", "base", "transfer_from", "transfer_to"])
def test_a_target_with_a_model_in_it_that_is_read_is_refused(
    argument: str, control_folder: Path, tmp_path: Path
) -> None:
    """Replacing the folder would delete the model."""
    repo = Path(shutil.copytree(control_folder, tmp_path / "repo"))
    read = repo / "diffusion_pytorch_model.safetensors"
    arguments: dict[str, Any] = {"source": control_folder, argument: read}
    if argument.startswith("transfer"):
        arguments = {"transfer_from": control_folder, "transfer_to": control_folder} | arguments
    with pytest.raises(TetherError, match=r"refusing to write .*repo: it contains .*, which is read"):
        convert(**arguments, target=repo, to="diffusers", force=True)
    assert read.exists()


def test_a_model_may_replace_itself(control_folder: Path) -> None:
    before = ControlNet.load(control_folder)
    convert(control_folder, control_folder, to="diffusers", force=True, dtype=torch.float16)
    after = ControlNet.load(control_folder, dtype=torch.float16)
    assert torch.equal(after.conv_in.weight, before.conv_in.weight.half())


def test_a_target_that_cannot_be_is_refused_in_one_line(
    control_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(control_folder, tmp_path / "two", to="diffusers")
    control = ControlNet.load(control_folder)
    monkeypatch.chdir(tmp_path / "two")
    for write in (lambda: convert(control_folder, ".", to="diffusers", force=True), lambda: control.save(".")):
        with pytest.raises(TetherError, match=r"^\. cannot be written: it is the working directory"):
            write()
    assert ControlNet.load(tmp_path / "two").kind == "canny"
    with pytest.raises(TetherError, match="cannot be written: File name too long"):
        convert(control_folder, tmp_path / ("x" * 300), to="diffusers")


def test_a_target_that_is_a_model_that_is_read_or_lies_in_one_is_refused(control_folder: Path, tmp_path: Path) -> None:
    weights = control_folder / "diffusion_pytorch_model.safetensors"
    before = weights.read_bytes()
    with pytest.raises(TetherError, match=r"refusing to write .*: it lies in .*control, which is read"):
        convert(control_folder, weights, to="original", force=True)
    other = tmp_path / "other.safetensors"
    convert(control_folder, other, to="original")
    for argument in ("base", "transfer_from", "transfer_to"):
        arguments: dict[str, Any] = {argument: other}
        if argument.startswith("transfer"):
            arguments = {"transfer_from": control_folder, "transfer_to": control_folder} | arguments
        with pytest.raises(TetherError, match=r"refusing to write .*other\.safetensors: it is read"):
            convert(control_folder, other, to="original", force=True, **arguments)
    assert weights.read_bytes() == before


def test_in_a_working_directory_that_was_deleted_a_relative_target_is_one_line(
    control_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(TetherError, match=r"^a\.safetensors cannot be written: No such file or directory"):
        convert(control_folder, "a.safetensors", to="original")


def test_a_target_that_is_not_replaced_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cat.png").write_text("precious")
    with pytest.raises(TetherError, match="it is a folder that contains no model"):
        convert("./not/read", tmp_path / "out", to="diffusers", force=True)
    (tmp_path / "out.pth").mkdir()
    with pytest.raises(TetherError, match="it is a folder, expected a file"):
        convert("./not/read", tmp_path / "out.pth", to="original", force=True)
    (tmp_path / "file").touch()
    with pytest.raises(TetherError, match="is a file: refusing to replace it by a folder"):
        convert("./not/read", tmp_path / "file", to="diffusers", force=True)
