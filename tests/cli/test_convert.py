"""`tether convert`: what its flags say is what is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tether.base import Base, ControlNet
from tether.cli import app
from tether.errors import TetherError


def convert(*arguments: object) -> None:
    result = CliRunner().invoke(app, ["convert", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_the_kind_of_a_control_and_what_a_base_predicts_can_be_said(
    tiny_base: Base, tiny_folder: Path, tmp_path: Path
) -> None:
    ControlNet.from_unet(tiny_base.unet).save(tmp_path / "control")
    convert(tmp_path / "control", tmp_path / "named", "--to", "diffusers", "--kind", "depth")
    assert ControlNet.load(tmp_path / "named").kind == "depth"
    convert(tiny_folder, tmp_path / "base", "--to", "diffusers", "--prediction-type", "v_prediction")
    schedule = json.loads((tmp_path / "base" / "scheduler" / "scheduler_config.json").read_text())
    assert schedule["prediction_type"] == "v_prediction"


@pytest.mark.parametrize(
    ("flag", "wrong"), [("--to", "onnx"), ("--dtype", "int8"), ("--prediction-type", "x0")], ids=lambda value: value
)
def test_an_unknown_choice_is_refused(flag: str, wrong: str, tiny_folder: Path, tmp_path: Path) -> None:
    arguments = {"--to": "diffusers", flag: wrong}
    with pytest.raises(TetherError, match=f"{flag} {wrong}: expected one of"):
        convert(tiny_folder, tmp_path / "out", *(word for pair in arguments.items() for word in pair))
    assert not (tmp_path / "out").exists()
