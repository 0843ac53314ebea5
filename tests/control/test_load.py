"""Controls are opened whatever their family: shipped, from a path, recognized by their files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tether
from tether.base import Base
from tether.control import ControlNet, control
from tether.control.load import family_at
from tether.conversion import convert
from tether.errors import TetherError
from tether.files import hub


@pytest.fixture
def saved(tiny_base: Base, tmp_path: Path) -> Path:
    ControlNet.from_base(tiny_base).save(tmp_path / "my-depth-control")
    return tmp_path / "my-depth-control"


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_FAMILIES", dict(control._FAMILIES))


def family_that_recognizes(answer: object) -> type[ControlNet]:
    class Other(ControlNet):
        @classmethod
        def recognizes(cls, path: Path) -> bool:
            if isinstance(answer, Exception):
                raise answer
            return bool(answer)

    return control.register("other")(Other)


def test_a_shipped_control_is_opened_by_its_kind() -> None:
    canny = tether.load_control("canny")
    assert isinstance(canny, ControlNet)
    assert (canny.kind, canny.name) == ("canny", "canny")
    assert not canny.training
    assert not any(parameter.requires_grad for parameter in canny.parameters())


def test_a_control_net_folder_is_recognized_and_its_kind_guessed(saved: Path) -> None:
    loaded = tether.load_control(saved, dtype=torch.bfloat16)
    assert type(loaded) is ControlNet
    assert (loaded.kind, loaded.name, loaded.dtype) == ("depth", str(saved), torch.bfloat16)
    assert tether.load_control(saved, kind="canny").kind == "canny"


def test_a_weights_file_on_the_hub_comes_with_the_settings_beside_it(
    tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = ControlNet.from_base(tiny_base, global_pool_conditions=True)
    control.kind, control.sides = "depth", 0.6
    control.save(tmp_path / "there" / "sub")
    asked = []

    def download(repo: str, name: str, revision: str, **_: object) -> str:
        asked.append((name, revision))
        if not (tmp_path / "there" / name).is_file():
            raise hub.EntryNotFoundError("none")
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        return str(shutil.copy(tmp_path / "there" / name, tmp_path / "here" / name))

    monkeypatch.setattr(hub, "hf_hub_download", download)
    monkeypatch.setattr(hub, "_reachable", lambda: True)
    loaded = tether.load_control("owner/name/sub/diffusion_pytorch_model.safetensors", revision="v2")
    assert isinstance(loaded, ControlNet)
    assert (loaded.kind, loaded.sides, loaded.pools_globally) == ("depth", 0.6, True)
    assert loaded.config["attention_head_dim"] == control.config["attention_head_dim"] == 4
    weights, config, notes = ("sub/diffusion_pytorch_model.safetensors", "sub/config.json", "sub/tether.json")
    assert asked == [(weights, "v2"), (config, "v2"), (notes, "v2")]


def test_settings_beside_several_controls_are_for_the_file_with_the_usual_name(saved: Path, tmp_path: Path) -> None:
    """Any other is read by its shapes, and by what its own metadata say."""
    weights = saved / "diffusion_pytorch_model.safetensors"
    config = json.loads((saved / "config.json").read_text()) | {"global_pool_conditions": True}
    (saved / "config.json").write_text(json.dumps(config))
    (saved / "tether.json").write_text('{"kind": "seg", "sides": 0.3}')
    own = {"tether.kind": "canny", "tether.sides": "0.6", "tether.config": '{"attention_head_dim": 4}'}
    save_file(load_file(weights), saved / "x-depth.safetensors", own | {"tether.global_pool_conditions": "false"})
    (saved / "x-depth.bin").touch()
    (saved / "optimizer.bin").touch()

    def opened(name: str) -> tuple[object, ...]:
        control = ControlNet.load(saved / name)
        return control.kind, control.sides, control.pools_globally, control.config["attention_head_dim"]

    assert opened(weights.name) == ("seg", 0.3, True, 4)
    assert opened("x-depth.safetensors") == ("canny", 0.6, False, 4)
    save_file(load_file(weights), saved / "x-depth.safetensors")
    assert opened("x-depth.safetensors") == ("depth", None, False, 8)
    weights.unlink()
    (saved / "x-depth.bin").unlink()
    assert opened("x-depth.safetensors") == ("seg", 0.3, True, 4)  # the only one there
    save_file(load_file(saved / "x-depth.safetensors"), saved / "x-depth.safetensors", own)
    assert opened("x-depth.safetensors") == ("canny", 0.6, True, 4)


def test_a_conversion_of_a_file_on_the_hub_has_the_settings_beside_it(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (saved / "tether.json").write_text("{}")
    asked = []

    def download(repo: str, name: str, **_: object) -> str:
        asked.append(name)
        (tmp_path / "here").mkdir(exist_ok=True)
        return str(shutil.copy(saved / name.rpartition("/")[2], tmp_path / "here"))

    monkeypatch.setattr(hub, "hf_hub_download", download)
    monkeypatch.setattr(hub, "_reachable", lambda: True)
    convert("owner/name/diffusion_pytorch_model.safetensors", tmp_path / "out", to="diffusers", kind="depth")
    assert asked == ["diffusion_pytorch_model.safetensors", "config.json", "tether.json"]
    assert ControlNet.load(tmp_path / "out").config["attention_head_dim"] == 4


@pytest.mark.usefixtures("registry")
def test_another_family_that_recognizes_the_files_comes_before_control_net(saved: Path) -> None:
    other = family_that_recognizes(True)
    assert family_at(saved) is other
    assert type(tether.load_control(saved)) is other


@pytest.mark.usefixtures("registry")
def test_a_family_that_does_not_recognize_the_files_is_left_out(saved: Path) -> None:
    family_that_recognizes(False)
    assert family_at(saved) is ControlNet


@pytest.mark.usefixtures("registry")
def test_a_family_that_fails_to_look_is_a_warning(saved: Path) -> None:
    family_that_recognizes(ValueError("cannot read"))
    with pytest.warns(UserWarning, match="control family 'other' failed to look at .*: cannot read"):
        assert family_at(saved) is ControlNet


def test_nothing_at_a_name_says_which_controls_are_shipped() -> None:
    with pytest.raises(TetherError, match=r"no control \(shipped: canny"):
        tether.load_control("./nothing/here")


def test_the_folder_of_a_base_model_is_not_a_control(tiny_folder: Path) -> None:
    with pytest.raises(TetherError, match="expected a ControlNet, found a base model"):
        tether.load_control(tiny_folder)
