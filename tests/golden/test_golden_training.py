"""The trainer takes the steps that it took at commit 2ffee90; the recipe's recorded steps are kept whole."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent
FACTS: dict[str, Any] = json.loads((HERE / "training_losses.json").read_text())
RECIPE: dict[str, Any] = json.loads((HERE / "recipe_losses.json").read_text())


@pytest.mark.parametrize("name", list(FACTS["runs"]))
def test_the_trainer_takes_the_recorded_steps(name: str, tiny_training: ModuleType, tmp_path: Path) -> None:
    seen, recorded = tiny_training.train(tmp_path / "run", name), FACTS["runs"][name]
    assert seen["learning_rate"] == pytest.approx(recorded["learning_rate"], rel=1e-9)
    assert seen["loss"] == pytest.approx(recorded["loss"], abs=1e-6)
    assert seen["gradient_norm"] == pytest.approx(recorded["gradient_norm"], rel=1e-4)


def test_the_recorded_runs_differ_and_learn(tiny_training: ModuleType) -> None:
    assert list(FACTS["runs"]) == list(tiny_training.RUNS)
    assert all(len(run["loss"]) == 8 for run in FACTS["runs"].values())
    assert len({tuple(run["loss"]) for run in FACTS["runs"].values()}) == len(FACTS["runs"])


def test_the_recipe_was_recorded_whole() -> None:
    lengths = {name: len(run["steps"]) for name, run in RECIPE["runs"].items()}
    assert lengths == {"shipped": 20, "shipped-float32": 20, "plain": 10, "plain-float32": 10, "fresh-float32": 10}
    for run in RECIPE["runs"].values():
        assert all(math.isfinite(value) for step in run["steps"] for value in step.values())
        assert any(step["grounding"] > 0 for step in run["steps"])
        assert all(run["moved"].values())
    assert all(step["objective"] == step["loss"] for step in RECIPE["runs"]["plain"]["steps"])


def test_the_recipes_data_set_has_its_format() -> None:
    with np.load(HERE / "recipe-latents.npz") as file:
        assert {name: (file[name].shape, str(file[name].dtype)) for name in ("latents", "edges")} == {
            "latents": ((24, 4, 16, 16), "float16"),
            "edges": ((24, 4, 128, 16), "uint8"),
        }
        counts, captions = json.loads(str(file["counts"])), json.loads(str(file["captions"]))
    with np.load(HERE / "recipe-scenes.npz") as file:
        assert (file["places"].shape, str(file["places"].dtype)) == ((10, 6, 8, 8), "uint8")
    assert counts == {"3d emoji": 6, "flat emoji": 3, "other emoji": 5, "scenes": 10}
    assert [len(row) for row in captions] == [6] * 24
