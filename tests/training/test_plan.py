"""What a run will take."""

from __future__ import annotations

from pathlib import Path

import pytest

from tether.base import ControlNet, load_base
from tether.datasets.latents.cache import build_cache, plan_cache
from tether.training.run import dry_run

from .small import config


def test_a_dry_run_counts_parameters_memory_and_time_and_writes_nothing(
    tiny_folder: Path, circles: Path, tmp_path: Path
) -> None:
    settings = config(tmp_path, tiny_folder, circles, steps=10)
    plan = dry_run(settings)
    base = load_base(tiny_folder)
    control = ControlNet.from_unet(base.unet)
    trained = sum(p.numel() for p in control.parameters())
    assert plan.trained == trained
    assert plan.locked == sum(p.numel() for p in base.unet.parameters())
    assert plan.samples == 20
    assert plan.memory["control"] == plan.memory["average"] == 4 * trained
    assert plan.memory["gradients"] == 4 * max(p.numel() for p in control.parameters())
    clipped = dry_run(settings.model_copy(update={"max_grad_norm": 1.0}))
    assert clipped.memory["gradients"] == 4 * trained
    assert plan.memory["optimizer"] == pytest.approx(8 * trained, rel=0.01)
    assert plan.memory["activations"] > 0
    encoders = [p for module in (base.vae, *base.text.networks) for p in (*module.parameters(), *module.buffers())]
    assert plan.memory["encoders"] == sum(p.numel() * p.element_size() for p in encoders) > 0
    assert plan.seconds == 10 * plan.seconds_a_step > 0
    assert not settings.out.exists()


def test_a_finished_cache_needs_no_encoders(tiny_folder: Path, circles: Path, tmp_path: Path) -> None:
    settings = config(tmp_path, tiny_folder, circles, cache=tmp_path / "cache")
    build_cache(plan_cache(circles, load_base(tiny_folder), tmp_path / "cache", crops=settings.crops))
    assert dry_run(settings).memory["encoders"] == 0
