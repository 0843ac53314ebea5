"""`tether train` with the shipped control's YAML takes the very steps that its recipe took (tests/golden)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from tether.base import ControlNet, load_base
from tether.cli import app

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
WEIGHTS = ROOT / "src" / "tether" / "weights"
RECORDED: dict[str, Any] = json.loads((GOLDEN / "recipe_losses.json").read_text())["runs"]

SHARES = "{3d emoji: 28, flat emoji: 13, other emoji: 24, scenes: 35}"  # of the recipe's defaults
START = (f"start_from={WEIGHTS / 'control-canny'}", f"start_base={WEIGHTS / 'base'}")
RUNS: dict[str, tuple[str, ...]] = {
    "shipped-float32": ("learning_rate=5e-4", *START),
    "plain-float32": ("learning_rate=5e-4", "timestep_shift=1", "auxiliary_losses=[]", *START),
    "fresh-float32": ("learning_rate=0.002", "warmup_steps=4"),
}
"""Recorded run -> settings that differ from the YAML's."""


def grounding() -> str:
    files = f"{{scenes: {GOLDEN / 'recipe-scenes.npz'}, latents: {GOLDEN / 'recipe-latents.npz'}}}"
    loss = f"loss: 'recipes/grounding.py:SceneGrounding', weight: 0.05, until: 0.5, options: {files}"
    return f"auxiliary_losses=[{{{loss}}}]"


def scalars(logs: Path) -> dict[str, list[float]]:
    """What the run logged to TensorBoard, by name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, list[float]] = {}
    for file in logs.rglob("events*"):  # hyperparameters are in a file of their own
        events = EventAccumulator(str(file))
        events.Reload()
        for name in events.Tags()["scalars"]:
            found[name] = [event.value for event in events.Scalars(name)]
    return found


@pytest.mark.parametrize(
    "name", ["shipped-float32", "fresh-float32", pytest.param("plain-float32", marks=pytest.mark.slow)]
)
def test_the_command_takes_the_recorded_steps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "fresh-float32" and torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("recorded with AVX-512: a fresh control's steps, orthogonalized in bfloat16, part from others'")
    monkeypatch.chdir(ROOT)  # the YAML names recipes/grounding.py
    monkeypatch.setattr("tether.training.muon.has_bf16", lambda: True)  # recorded with PyTorch's Muon
    recorded, out = RECORDED[name], tmp_path / "run"
    count = len(recorded["steps"])
    options = f"--data {GOLDEN / 'recipe-latents.npz'} --out {out} --steps {count} --batch-size 4".split()
    settings = ["precision=no", f"shares={SHARES}", grounding(), *RUNS[name]]
    flags = [text for setting in settings for text in ("--set", setting)]
    result = CliRunner().invoke(
        app, ["train", "--config", "recipes/control-canny.yaml", *options, *flags], catch_exceptions=False
    )
    assert f"finished after {count} steps" in result.output
    logged = scalars(out / "logs")
    assert logged["loss"] == pytest.approx([step["loss"] for step in recorded["steps"]], abs=1e-6)
    if "SceneGrounding" in logged:
        assert logged["SceneGrounding"] == pytest.approx([step["grounding"] for step in recorded["steps"]], abs=1e-6)
    assert logged["learning_rate"] == pytest.approx([step["learning_rate"] for step in recorded["steps"]], rel=1e-6)
    assert logged["gradient_norm"] == pytest.approx([step["gradient_norm"] for step in recorded["steps"]], rel=1e-4)

    start = ControlNet.load(WEIGHTS / "control-canny") if START[0] in RUNS[name] else fresh()
    before, after = start.state_dict(), load_file(out / "control" / "diffusion_pytorch_model.safetensors")
    moved = {name: (tensor - before[name]).double().norm().item() for name, tensor in after.items()}
    assert moved == pytest.approx(recorded["average_moved"], rel=1e-3, abs=1e-7)


def fresh() -> ControlNet:
    base = load_base()
    torch.manual_seed(3)
    return ControlNet.from_unet(base.unet)  # type: ignore[return-value]
