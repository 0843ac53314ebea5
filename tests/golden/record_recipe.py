"""Records what recipes/control.py does on the tiny data set, step by step, into recipe_losses.json.

    OMP_NUM_THREADS=1 PYTHONPATH=src:recipes python tests/golden/record_recipe.py

The recipe runs as it is; its `Round` is only listened to. `float32` runs have autocast turned off, `bfloat16` runs have
it as the recipe does. `warmup` shortens the recipe's warm-up of 200 steps, so that the cosine behind it is seen too.
"""

from __future__ import annotations

import json
import runpy
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from draw import machine

import rounds

HERE = Path(__file__).parent
SHIPPED = "src/tether/weights"
COMMON = "--base tether --latents tests/golden/recipe-latents.npz --data DATA --batch 4 --seed 3 --device cpu --out OUT"
START = f"--start {SHIPPED}/control-canny --start-base {SHIPPED}/base"
RUNS: dict[str, dict[str, Any]] = {
    "shipped": {"options": f"{START} --steps 20 --shift 2 --grounding 0.05", "precision": "bfloat16"},
    "shipped-float32": {"options": f"{START} --steps 20 --shift 2 --grounding 0.05", "precision": "float32"},
    "plain": {"options": f"{START} --steps 10 --shift 1 --grounding 0", "precision": "bfloat16"},
    "plain-float32": {"options": f"{START} --steps 10 --shift 1 --grounding 0", "precision": "float32"},
    "fresh-float32": {
        "options": "--steps 10 --shift 2 --grounding 0.05 --lr 0.002",
        "precision": "float32",
        "warmup": 4,
    },
}


def record(options: str, precision: str, warmup: int | None = None) -> dict[str, Any]:
    steps: list[dict[str, float]] = []
    norms: list[float] = []
    runs: list[rounds.Round] = []
    learn, begin, clip, autocast = (
        rounds.Round.learn,
        rounds.Round.__init__,
        torch.nn.utils.clip_grad_norm_,
        torch.autocast,
    )

    def heard(self: rounds.Round, objective: torch.Tensor, **values: torch.Tensor) -> None:
        steps.append({"objective": objective.item(), **{name: value.item() for name, value in values.items()}})
        steps[-1]["learning_rate"] = self.optimiser.parts[0].param_groups[0]["lr"]
        learn(self, objective, **values)
        steps[-1]["gradient_norm"] = norms[-1]

    def clipped(*arguments: Any, **settings: Any) -> torch.Tensor:
        norm = clip(*arguments, **settings)
        norms.append(norm.item())
        return norm

    def begun(self: rounds.Round, model: torch.nn.Module, *arguments: Any, **settings: Any) -> None:
        begin(self, model, *arguments, **settings)
        self.before = {name: tensor.clone() for name, tensor in model.state_dict().items()}  # type: ignore[attr-defined]
        runs.append(self)

    def without(device: str, dtype: torch.dtype) -> Any:
        return autocast(device, dtype, enabled=False)

    with tempfile.TemporaryDirectory() as room:
        (Path(room) / "scenes.npz").write_bytes((HERE / "recipe-scenes.npz").read_bytes())
        words = f"{options} {COMMON}".replace("DATA", room).replace("OUT", f"{room}/run").split()
        arguments, usual = sys.argv, rounds.Round.WARMUP
        sys.argv = ["recipes/control.py", *words]
        rounds.Round.learn, rounds.Round.__init__ = heard, begun  # type: ignore[method-assign]
        torch.nn.utils.clip_grad_norm_ = clipped
        rounds.Round.WARMUP = usual if warmup is None else warmup
        if precision == "float32":
            torch.autocast = without  # type: ignore[assignment,misc]
        try:
            runpy.run_path("recipes/control.py", run_name="__main__")
        finally:
            sys.argv, rounds.Round.WARMUP = arguments, usual
            rounds.Round.learn, rounds.Round.__init__ = learn, begin  # type: ignore[method-assign]
            torch.nn.utils.clip_grad_norm_, torch.autocast = clip, autocast  # type: ignore[misc]
    (run,) = runs
    after, average, before = run.model.state_dict(), run.average.module.state_dict(), run.before  # type: ignore[attr-defined]
    moved = {name: (tensor - before[name]).double().norm().item() for name, tensor in after.items()}
    averaged = {name: (tensor - before[name]).double().norm().item() for name, tensor in average.items()}
    return {"steps": steps, "moved": moved, "average_moved": averaged}


def main() -> None:
    torch.set_num_threads(1)
    facts: dict[str, Any] = {
        "machine": machine(),
        "threads": 1,
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers", "numpy")},
        "runs": {},
    }
    for name, run in RUNS.items():
        warmup = {"warmup": run["warmup"]} if "warmup" in run else {}
        command = f"python recipes/control.py {run['options']} {COMMON}"
        facts["runs"][name] = {"command": command, "precision": run["precision"], **warmup, **record(**run)}
        print(name, facts["runs"][name]["steps"][0], facts["runs"][name]["steps"][-1], flush=True)
    (HERE / "recipe_losses.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
