"""`tether train`: its options, and what it prints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from tether.cli import app
from tether.datasets.build import build_dataset
from tether.errors import TetherError
from tether.training.config import TrainConfig


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["train", *words], catch_exceptions=False)


def test_a_dry_run_prints_what_the_run_would_take_and_writes_nothing(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ("precision=no", "device=cpu", "validation_every=0", "gradient_accumulation=2")
    flags = [word for setting in settings for word in ("--set", setting)]
    printed = run("--dry-run", "--base", str(tiny_folder), "--steps", "30", "--batch-size", "2", *flags).stdout
    assert "steps               30 (120 samples)" in printed
    sizes = {name: float(size) for name, size in re.findall(r"^  (\w+) +([0-9.]+) GB$", printed, re.MULTILINE)}
    assert set(sizes) == {"base", "control", "gradients", "optimizer", "average", "activations", "encoders"}
    total = re.search(r"memory, estimated +([0-9.]+) GB", printed)
    assert total is not None
    assert float(total[1]) == pytest.approx(sum(sizes.values()), abs=0.05)
    assert re.search(r"time, estimated +[0-9.]+ h \([0-9.]+ s per step\)", printed)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_trained_resumed_and_found_finished(tiny_folder: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    build_dataset("circles", data, "canny", size=64, count=8, workers=0)
    small = ("precision=no", "device=cpu", "watch_every=0", "trackers=[]", "crops=1")  # one former name
    flags = [word for setting in small for word in ("--set", setting)]
    command = ("--data", str(data), "--base", str(tiny_folder), "--batch-size", "2", "--out", str(out), *flags)
    assert f"finished after 1 steps: the control is in {out / 'control'}" in run(*command, "--steps", "1").stdout
    assert "finished after 2 steps" in run("--resume", str(out), "--steps", "2").stdout
    config = TrainConfig.load(out / "config.yaml")
    assert (config.steps, config.batch_size, config.validation_every) == (2, 2, 0)
    written = (out / "result.json").stat().st_mtime_ns
    assert "finished after 2 steps" in run("--resume", str(out)).stdout
    assert (out / "result.json").stat().st_mtime_ns == written


def test_a_config_beside_resume_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="leave --config out"):
        run("--resume", str(tmp_path), "--config", str(tmp_path / "longer.yaml"))
    with pytest.raises(TetherError, match="there is no run to resume"):
        run("--resume", str(tmp_path), "--set", f"out={tmp_path}")


def test_a_dry_run_says_the_buckets(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k, (width, height) in enumerate([(96, 96), (160, 75), (160, 75), (75, 160)]):
        Image.new("RGB", (width, height), (40 * k, 99, 99)).save(folder / f"{k}.png")
        (folder / f"{k}.txt").write_text(f"number {k}")
    flags = ("--base", str(tiny_folder), "--batch-size", "2", "--set", "device=cpu", "--set", "precision=no")
    yaml = tmp_path / "buckets.yaml"
    yaml.write_text("resolution: 64x64\nbuckets: true\nout: run\n")
    for words in (("--buckets", "--resolution", "64"), ("--config", str(yaml))):
        printed = run("--data", str(folder), *flags, *words, "--dry-run").stdout
        assert "are used (40x96: 1, 64x64: 1, 96x40: 2)" in printed
    assert "buckets" not in run("--data", str(folder), *flags, "--resolution", "96x64", "--dry-run").stdout


def test_every_setting_is_listed_with_its_default_and_description() -> None:
    printed = run("--list-settings").stdout
    for name, field in TrainConfig.model_fields.items():
        assert field.description
        assert f"{name} (" in printed
        assert f"    {field.description}" in printed
    assert "batch_size (8)" in printed
    assert "out (required)" in printed


def test_every_option_that_is_a_setting_has_its_name() -> None:
    help_text = run("--help").stdout
    options = {name.replace("-", "_") for name in re.findall(r"--([a-z-]+)", help_text)}
    others = {"config", "set", "resume", "dry_run", "list_settings", "help", "out"}
    assert options - others < set(TrainConfig.model_fields)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no folder for the run: give --out RUN"),
        (("--set", "ema"), "expected NAME=VALUE, as ema=0.999"),
        (("--set", "ema=[", "--out", "run"), "the value is not valid YAML"),
        (("--set", "stepz=3", "--out", "run"), "unknown training setting 'stepz': did you mean steps?"),
        (("--steps", "0", "--out", "run"), "training setting steps: .* greater than or equal to 1"),
        (("--resolution", "96by64", "--out", "run"), "training setting resolution: give a side in pixels, or WIDTH"),
        (("--resolution", "96x4", "--out", "run"), "training setting resolution: sides must be 8 pixels or more"),
        (("--set", "bucket_step=8", "--out", "run"), "training settings: bucket_step needs buckets: true"),
        (("--config", "none.yaml"), "cannot read the training config none.yaml"),
        (("--set", "watch_every=1", "--set", "validation_every=2", "--out", "run"), "are the same training setting"),
    ],
)
def test_wrong_options_are_errors_of_one_line(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(TetherError, match=message) as caught:
        run(*words)
    assert "\n" not in str(caught.value)
