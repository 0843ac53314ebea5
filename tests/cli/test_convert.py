"""`tether convert` passes its options on, and prints what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from typer.testing import CliRunner

from tether.base import Base, ControlNet
from tether.cli import app
from tether.errors import TetherError
from tether.weights import shipped_controls

from ..tiny import make_unet


def convert(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["convert", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_kind_and_prediction_type_are_written(tiny_base: Base, tiny_folder: Path, tmp_path: Path) -> None:
    ControlNet.from_unet(tiny_base.unet).save(tmp_path / "control")
    convert(tmp_path / "control", tmp_path / "named", "--to", "diffusers", "--kind", "depth")
    assert ControlNet.load(tmp_path / "named").kind == "depth"
    convert(tiny_folder, tmp_path / "base", "--to", "diffusers", "--prediction-type", "v_prediction")
    schedule = json.loads((tmp_path / "base" / "scheduler" / "scheduler_config.json").read_text())
    assert schedule["prediction_type"] == "v_prediction"


@pytest.mark.parametrize("layout", ["original", "released"])
def test_the_original_layout_has_two_names(layout: str, tmp_path: Path) -> None:
    ControlNet.from_unet(make_unet("sd1")).save(tmp_path / "control")
    target = tmp_path / "control.safetensors"
    printed = convert(tmp_path / "control", target, "--to", layout, "--dtype", "bfloat16")
    with safe_open(target, framework="pt") as file:
        names = list(file.keys())
        assert str(file.get_slice(names[0]).get_dtype()) == "BF16"
    assert "control_model.input_blocks.0.0.weight" in names
    assert printed.startswith("ControlNet for a custom latent diffusion model (12-wide text states): ")
    assert f"{len(names)} tensors" in printed
    assert str(target) in printed.replace("\n", "")


def test_a_shipped_control_is_found_by_its_kind(tmp_path: Path) -> None:
    kind = shipped_controls()[0]
    convert(kind, tmp_path / "control", "--to", "diffusers")
    assert ControlNet.load(tmp_path / "control").kind == kind


@pytest.mark.parametrize(
    ("flag", "wrong"), [("--to", "onnx"), ("--dtype", "int8"), ("--prediction-type", "x0")], ids=lambda value: value
)
def test_an_unknown_choice_is_refused(flag: str, wrong: str, tiny_folder: Path, tmp_path: Path) -> None:
    arguments = {"--to": "diffusers", flag: wrong}
    with pytest.raises(TetherError, match=f"{flag} {wrong}: expected one of"):
        convert(tiny_folder, tmp_path / "out", *(word for pair in arguments.items() for word in pair))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("out", ["--to", "original"], "the original layout is a file"),
        ("out.ckpt", ["--to", "diffusers"], "the diffusers layout is a folder"),
        ("there", ["--to", "diffusers"], "already exists: use --force"),
        ("there", ["--to", "diffusers", "--force"], "is a file: refusing to replace it by a folder"),
        ("out", ["--to", "diffusers", "--transfer-from", "tether"], "give both --transfer-from and --transfer-to"),
        (
            "out",
            ["--to", "diffusers", "--transfer-from", "tether", "--transfer-to", "tether"],
            "is a base model: only a control can be transferred",
        ),
    ],
)
def test_an_impossible_conversion_is_refused(
    target: str, options: list[str], message: str, tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "there").write_text("precious")
    with pytest.raises(TetherError, match=message):
        convert(tiny_folder, tmp_path / target, *options)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_text() == "precious"
