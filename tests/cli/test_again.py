"""`tether generate --again` where models are no longer where they were."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from tether.base import Base, ControlNet
from tether.cli import app
from tether.cli.again import places
from tether.errors import TetherError
from tether.images import read_metadata, save_png
from tether.sampling import Request
from tether.sampling.request import read_request, request_text
from tether.weights import shipped

UNET = Path("unet", "diffusion_pytorch_model.safetensors")


def again(path: Path, *arguments: object) -> tuple[int, Path, str]:
    """Exit code, the path that is printed, and what is said, of a repetition."""
    given = ["generate", "--again", str(path), "-o", str(path.parent / "again"), *map(str, arguments)]
    result = CliRunner().invoke(app, given)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, Path(result.stdout.strip()), result.stderr


@pytest.fixture
def drawn(tiny_folder: Path, tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image in a folder of its own, of a base and a control in the folder `models`."""
    (empty := tmp_path / "here").mkdir()
    monkeypatch.chdir(empty)
    models = tmp_path / "models"
    shutil.copytree(tiny_folder, models / "base")
    torch.manual_seed(0)
    control = ControlNet.from_unet(tiny_base.unet)
    for parameter in control.controlnet_down_blocks.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    control.save(models / "control")
    lines = np.zeros((64, 64), np.uint8)
    lines[20:40, 30] = 255
    Image.fromarray(lines).save(tmp_path / "lines.png")
    steered = ["--base", models / "base", "--condition", f"{models / 'control'}={tmp_path / 'lines.png'}:0.9"]
    command = ["generate", "a cube", *map(str, steered), "--steps", "2", "--seed", "3", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    (tmp_path / "pictures").mkdir()
    return Path(shutil.move(result.stdout.strip(), tmp_path / "pictures" / "cube.png"))


def move(models: Path, to: Path) -> None:
    """Base and control under other names in another folder, beside another base of the old name and size."""
    to.mkdir(parents=True)
    shutil.move(models / "base", to / "renamed")
    shutil.move(models / "control", to / "steering")
    other = shutil.copytree(to / "renamed", to / "base")
    tensors = load_file(other / UNET)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, other / UNET)


@pytest.mark.parametrize("place", ["pictures", "models", "here", "given", "variable"])
def test_moved_models_are_found_by_their_content(place: str, drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = drawn.parents[1]
    to = room / place / "sub" / "deep"
    move(room / "models", to)
    monkeypatch.setenv("TETHER_MODELS", str(room / place) if place == "variable" else "")
    code, path, said = again(drawn, *(["--models", room / place] if place == "given" else []))
    assert code == 0
    assert Image.open(path).tobytes() == Image.open(drawn).tobytes()
    assert said.count("is taken from") == 2
    request = read_request(path)
    assert (Path(request.base).name, Path(request.controls[0].ref).name) == ("renamed", "steering")
    assert set(request.fingerprints) == {request.base, request.controls[0].ref}
    code, _, said = again(path)  # the new image says where they are
    assert (code, "is taken from" in said) == (0, False)


def test_what_is_not_found_is_one_line_with_where_it_was_looked_for(drawn: Path) -> None:
    shutil.rmtree(drawn.parents[1] / "models" / "base")
    with pytest.raises(TetherError, match=r"base is not there, and its content is nowhere in .*pictures") as it:
        again(drawn)
    assert "give --base FILE, or its folder with --models DIR" in str(it.value)
    assert "\n" not in str(it.value)
    assert not (drawn.parent / "again").exists()


def test_the_base_may_be_said(drawn: Path, tiny_folder: Path) -> None:
    shutil.rmtree(drawn.parents[1] / "models" / "base")
    code, path, said = again(drawn, "--base", tiny_folder)
    assert (code, "is taken from" in said) == (0, False)
    assert Image.open(path).tobytes() == Image.open(drawn).tobytes()
    assert read_request(path).base == str(tiny_folder)


def test_other_weights_at_the_old_path_are_said_and_the_image_differs(drawn: Path) -> None:
    file = drawn.parents[1] / "models" / "base" / UNET
    tensors = load_file(file)
    save_file({name: tensor * 0.9 for name, tensor in tensors.items()}, file)
    code, path, said = again(drawn)
    assert code == 1
    assert "base has changed since the image was drawn" in said
    assert "the image differs" in said
    assert read_request(path).fingerprints != read_request(drawn).fingerprints


def test_without_fingerprints_a_model_of_the_same_name_is_taken(drawn: Path) -> None:
    """Images of older versions have none. Of two of a name none is taken."""
    request = json.loads(request_text(drawn))
    assert request.pop("fingerprints").keys() == {request["base"], request["controls"][0]["ref"]}
    old = drawn.with_name("old.png")
    save_png(Image.open(drawn), old, read_metadata(drawn) | {"tether": json.dumps(request)})
    moved = Path(shutil.move(drawn.parents[1] / "models", drawn.parent / "moved"))
    code, path, said = again(old)
    assert code == 0
    assert said.count("is taken from") == 2
    assert Image.open(path).tobytes() == Image.open(drawn).tobytes()
    shutil.copytree(moved / "base", drawn.parent / "other" / "base")
    with pytest.raises(TetherError, match=r"several have its name: .*; say which folder, with --models DIR"):
        again(old)
    assert again(old, "--models", moved)[0] == 0


def test_a_home_folder_is_searched_only_when_it_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    request = Request(prompt="x", base=str(tmp_path / "gone" / "base"))
    assert tmp_path not in places(request, tmp_path / "x.png", [])
    assert tmp_path in places(request, tmp_path / "x.png", [tmp_path])
    monkeypatch.chdir(tmp_path)  # then it is named twice, in two ways
    resolved = [path.resolve() for path in places(request, Path("x.png"), [tmp_path])]
    assert resolved[0] == tmp_path
    assert tmp_path not in [path.resolve() for path in places(request, Path("x.png"), [])]


def test_models_are_for_again() -> None:
    with pytest.raises(TetherError, match="--models is for --again"):
        CliRunner().invoke(app, ["generate", "x", "--models", "."], catch_exceptions=False)


def test_models_that_are_no_folder_are_refused(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TetherError, match="--models nope is not a folder: expected a folder of models"):
        again(drawn, "--models", "nope")
    monkeypatch.setenv("TETHER_MODELS", "nope")  # may be of another day: what is there is searched
    assert again(drawn)[0] == 0


@pytest.mark.parametrize("ref", ["union:depth", "segmentation", "{room}/union:depth"])
def test_a_kind_of_a_union_and_a_kinds_other_name_are_found_again(
    ref: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    room = tmp_path / "room"
    shutil.copytree(shipped("control-union"), room / "union")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save("map.png")
    steered = ["--condition", f"{ref.format(room=room)}=map.png", "--steps", "1", "-o", "cube.png"]
    CliRunner().invoke(app, ["generate", "a cube", *steered], catch_exceptions=False)
    if "room" in ref:
        shutil.move(room / "union", tmp_path / "moved")
    code, path, said = again(tmp_path / "cube.png")
    assert (code, "is taken from" in said) == (0, "room" in ref)
    if "room" in ref:
        request = read_request(path)
        assert request.controls[0].ref == "moved:depth"
        assert request.fingerprints.keys() == {"moved"}


def test_the_engine_may_be_another_and_the_new_image_says_what_drew_it(drawn: Path) -> None:
    request = json.loads(request_text(drawn)) | {"engine": "openvino", "versions": {"torch": "1.0"}}
    old = drawn.with_name("old.png")
    save_png(Image.open(drawn), old, read_metadata(drawn) | {"tether": json.dumps(request)})
    code, path, _ = again(old, "--engine", "eager")
    assert code == 0
    repeated = read_request(path)
    assert repeated.engine == "eager"
    assert repeated.versions["torch"] != "1.0"
