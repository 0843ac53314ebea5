"""Which run is meant, and that it is known by its content, not by where it lies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tether.base import ControlNet
from tether.conversion import convert
from tether.errors import TetherError
from tether.training.config import CONFIG, TrainConfig
from tether.training.resume import find_run
from tether.training.run import train

from .small import config, photos


def make_run(folder: Path, steps: tuple[int, ...] = (2, 4)) -> Path:
    for step in steps:
        (folder / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    (folder / CONFIG).write_text("steps: 4\n")
    return folder


def test_a_run_is_found_by_its_folder_and_by_what_is_in_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "control").mkdir()
    for name in ("", CONFIG, "checkpoints", "checkpoints/step-00000004", "control"):
        assert find_run(run / name) == run
    with pytest.raises(TetherError, match="latest checkpoint, step-00000004"):
        find_run(run / "checkpoints" / "step-00000002")
    with pytest.raises(TetherError, match="no run to resume"):
        find_run(tmp_path / "elsewhere")
    with pytest.raises(TetherError, match="leave --out out"):
        find_run(run, tmp_path / "other")


def test_latest_is_the_run_in_out_or_the_last_one_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TetherError, match="no run to resume below"):
        find_run("latest")
    first = make_run(Path("runs/a"))
    make_run(Path("b"))
    (Path("b") / "checkpoints" / "step-00000009").mkdir()
    assert find_run("latest") == Path("b")
    assert find_run("latest", first) == first


def test_a_run_goes_on_where_its_data_have_moved_or_are_gone(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = photos(tmp_path / "photos", 4, 80)
    shared = {"validation_every": 0, "resolution": 64}
    whole = train(config(tmp_path / "whole", tiny_folder, data, **shared)).control
    train(config(tmp_path / "parts", tiny_folder, data, **shared, steps=2))
    moved = (tmp_path / "parts" / "run").rename(tmp_path / "moved")
    elsewhere = data.rename(tmp_path / "other photos")
    monkeypatch.chdir(tmp_path)
    settings = {**shared, "out": moved}
    third = config(tmp_path, tiny_folder, elsewhere, **settings, steps=3)
    assert train(third).outcome.step == 3
    shutil.rmtree(elsewhere)
    last = train(config(tmp_path, tiny_folder, data, **settings)).control
    assert whole is not None
    assert last is not None
    one, two = (ControlNet.load(folder).state_dict() for folder in (whole, last))
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def test_a_run_does_not_go_on_with_other_data(tiny_folder: Path, circles: Path, tmp_path: Path) -> None:
    train(config(tmp_path, tiny_folder, circles, validation_every=0, steps=2))
    other = config(tmp_path, tiny_folder, photos(tmp_path / "photos", 4, 80), validation_every=0, resolution=64)
    with pytest.raises(TetherError, match=r"another data|resolution was|has changed"):
        train(other)


def test_a_run_and_its_checkpoints_open_as_controls(tiny_folder: Path, circles: Path, tmp_path: Path) -> None:
    settings = config(tmp_path, tiny_folder, circles, validation_every=0)
    result = train(settings)
    assert result.control is not None
    expected = ControlNet.load(result.control).state_dict()
    checkpoint = settings.out / "checkpoints" / "step-00000004"
    shutil.rmtree(result.control)
    for ref in (settings.out, settings.out / "checkpoints", checkpoint, checkpoint / "model.safetensors"):
        found = ControlNet.load(ref)
        assert found.kind == "canny"
        assert [name for name in expected if not torch.equal(expected[name], found.state_dict()[name])] == []
    convert(checkpoint, tmp_path / "converted", to="diffusers")
    assert torch.equal(
        ControlNet.load(tmp_path / "converted").state_dict()["controlnet_mid_block.weight"],
        expected["controlnet_mid_block.weight"],
    )


def test_a_run_without_a_checkpoint_is_no_control_yet(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    TrainConfig.of({"out": tmp_path / "run"}).save(tmp_path / "run" / CONFIG)
    with pytest.raises(TetherError, match="without a control yet"):
        ControlNet.load(tmp_path / "run")
