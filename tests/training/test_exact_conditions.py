"""`tether train` on a source that computes its conditions exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tether.base import ControlNet
from tether.cli import app
from tether.datasets.synthetic import builtin
from tether.datasets.synthetic.scenes import sample_scene


@pytest.mark.parametrize("kind", ["depth", "openpose"])
def test_scenes_train_a_control_on_their_exact_maps(
    kind: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builtin, "SCENES", 12)
    out = tmp_path / "run"
    settings = {"crops": 1, "validation_every": 0, "trackers": "[]", "precision": "no", "device": "cpu"}
    flags = [text for name, value in settings.items() for text in ("--set", f"{name}={value}")]
    command = ["train", "--data", "scenes", "--condition", kind, "--base", str(tiny_folder), "--out", str(out)]
    command += ["--batch-size", "2"]
    result = CliRunner().invoke(app, [*command, "--steps", "1", *flags], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "finished after 1 steps" in result.stdout
    assert "conditions: exact (scenes)" in result.stderr
    planned = CliRunner().invoke(app, [*command, "--dry-run", *flags], catch_exceptions=False)
    people = sum(bool(sample_scene(seed).mannequins) for seed in range(12))
    assert f"data                {people if kind == 'openpose' else 12} samples of scenes" in planned.stdout
    assert ControlNet.load(out / "control").kind == kind
