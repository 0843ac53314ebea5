"""A control's folder is written as a whole, read as written, and equal weights are in memory once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tether.control.store import family_of_folder, fill, read_folder, share_equal, write_folder
from tether.errors import TetherError


def test_a_folder_comes_back_as_it_was_written(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.randn(3, 2), "steps": torch.tensor(4)}
    write_folder(tmp_path / "a", tensors, {"tether_family": "x", "settings": {"n": 1}}, kind="canny")
    stored = read_folder(tmp_path / "a")
    assert stored.config == {"tether_family": "x", "settings": {"n": 1}}
    assert stored.kind == "canny"
    assert stored.tensors.keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in stored.tensors.items())
    assert json.loads((tmp_path / "a" / "tether.json").read_text()) == {"kind": "canny"}


def test_without_a_kind_there_are_no_notes(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", {"a": torch.ones(1)}, {}, kind=None)
    assert not (tmp_path / "a" / "tether.json").exists()
    assert read_folder(tmp_path / "a").kind is None


@pytest.mark.parametrize("sides", [0.6, "conditional", "both"])
def test_the_recommended_sides_come_back(tmp_path: Path, sides: Any) -> None:
    write_folder(tmp_path / "a", {"a": torch.ones(1)}, {}, kind=None, sides=sides)
    assert read_folder(tmp_path / "a").sides == sides


def test_sides_that_are_none_are_refused_with_their_file(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", {"a": torch.ones(1)}, {}, kind="canny")
    (tmp_path / "a" / "tether.json").write_text('{"sides": 7}')
    with pytest.raises(TetherError, match=r"tether\.json: sides is 7; it must be"):
        read_folder(tmp_path / "a")


def test_a_broken_weight_is_not_written_and_the_old_folder_stays(tmp_path: Path) -> None:
    config = {"tether_family": "x"}
    write_folder(tmp_path / "a", {"a": torch.ones(1)}, config, kind="canny")
    with pytest.raises(TetherError, match="NaN"):
        write_folder(tmp_path / "a", {"a": torch.tensor([float("nan")])}, config, kind=None)
    assert torch.equal(read_folder(tmp_path / "a").tensors["a"], torch.ones(1))


@pytest.mark.parametrize(
    ("text", "expected"), [('{"tether_family": "x"}', "x"), ("{}", None), ('{"tether_family": 3}', None)]
)
def test_the_family_is_the_one_in_the_settings(text: str, expected: str | None, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    assert family_of_folder(tmp_path) == expected


def test_a_file_and_a_folder_without_settings_name_no_family(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert family_of_folder(tmp_path / "file") is None
    assert family_of_folder(tmp_path) is None


def test_filling_casts_and_checks_names_and_shapes() -> None:
    linear = nn.Linear(2, 2)
    fill(linear, {"weight": torch.eye(2), "bias": torch.ones(2)}, torch.float16, "file")
    assert torch.equal(linear.weight, torch.eye(2).half())
    assert linear.bias.dtype == torch.float16
    with pytest.raises(TetherError, match="lacks bias"):
        fill(linear, {"weight": torch.eye(2)}, None, "file")
    with pytest.raises(TetherError, match=r"weight of shape \(3, 3\): expected \(2, 2\)"):
        fill(linear, {"weight": torch.eye(3), "bias": torch.ones(2)}, None, "file")


def test_only_bitwise_equal_parameters_of_the_same_name_share_storage() -> None:
    ours, theirs = nn.Linear(2, 2), nn.Linear(2, 2)
    with torch.no_grad():
        ours.weight.copy_(theirs.weight)
        ours.bias.copy_(theirs.bias + 1)
    share_equal(ours, theirs)
    assert ours.weight.data_ptr() == theirs.weight.data_ptr()
    assert ours.bias.data_ptr() != theirs.bias.data_ptr()
    other = nn.Linear(2, 2).to(torch.float64)
    other.load_state_dict(theirs.state_dict())
    share_equal(other, theirs)
    assert other.weight.data_ptr() != theirs.weight.data_ptr()
