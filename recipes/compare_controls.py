"""Which controls to ship: one for each kind, one union for all, or one of half the width for each, on one budget.

    python recipes/compare_controls.py --steps 1200 --batch-size 24          (after the data of control-union.yaml)

Each way sees the same number of samples, and starts from the base alone. The measure is the loss on held-out scenes: a
fixed choice of images, timesteps and noise, with empty prompts, so that it differs by what the control says alone. The
table has, for each way, bytes in float16, seconds of training, and the loss of each kind; the first row is the base's
without a control. `tether evaluate OUT/WAY/control --kind KIND --data scenes` measures what is drawn.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import half_width  # registers its family
import tether
from common import SIZE, to_tensor
from tether.base import Base
from tether.control import Control, Signal, load_control
from tether.datasets.synthetic.scenes import render, sample_scene
from tether.datasets.synthetic.scenes.maps import MAPS
from tether.datasets.synthetic.scenes.source import HELD_OUT_SCENES
from tether.training.config import TrainConfig
from tether.training.objective import diffusion_loss
from tether.training.run import train

KINDS = ("canny", "depth", "seg")
CAP = 50.0
"""As in the recipes: errors weigh as those of velocity, up to this weight."""
WAYS = {"separate": "controlnet", "half-width": half_width.HalfWidth.family}


class HeldOut:
    """Held-out scenes with their conditions, encoded; the loss on them."""

    def __init__(self, base: Base, count: int) -> None:
        scenes = [render(sample_scene(seed), SIZE) for seed in HELD_OUT_SCENES[:count]]
        self.base, self.process = base, base.noise
        pixels = np.stack([scene.image for scene in scenes])
        with torch.no_grad():
            self.latents = base.encode_images(to_tensor(pixels))
        maps = {kind: [make(scene) for scene in scenes] for kind, make in MAPS.items() if kind in KINDS}
        maps["canny"] = [np.asarray(tether.annotate("canny", Image.fromarray(scene.image))) for scene in scenes]
        self.conditions = {kind: to_tensor(np.stack(found)) / 2 + 0.5 for kind, found in maps.items()}

    @torch.no_grad()
    def loss(self, control: Control | None, kind: str) -> float:
        """The mean loss, with one control of a kind, or without."""
        conditioning = self.base.encode_prompts([""] * len(self.latents))
        hint = None if control is None else control.encode(self.conditions[kind])

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            signal = Signal({})
            if control is not None and hint is not None:
                signal = control(noisy, timesteps, conditioning, hint)
            return self.base.denoiser.predict(noisy, timesteps, conditioning, signal)

        # One generator for all: timesteps are spread evenly, and the same for every control.
        fixed = torch.Generator().manual_seed(5)
        settings = {"velocity_cap": CAP, "stratified": True, "per_sample": True}
        return diffusion_loss(predict, self.latents, self.process, randomness=fixed, **settings).mean().item()


def trained(arguments: argparse.Namespace, name: str, **settings: object) -> tuple[Path, float]:
    """Trains one control; its folder, and seconds."""
    common = {
        "out": arguments.out / name,
        "data": str(arguments.data),
        "batch_size": arguments.batch_size,
        "precision": "auto",
        "device": arguments.device,
        "attention": "auto" if arguments.device == "auto" else "math",
        "optimizer": "muon",
        "learning_rate": 8e-4,
        "schedule": "cosine",
        "final_learning_rate": 0.05,
        "warmup_steps": 20,
        "betas": (0.9, 0.99),
        "max_grad_norm": 1.0,
        "ema": 0.99,
        "randomness": "batch",
        "velocity_cap": CAP,
        "stratified_timesteps": True,
        "timestep_shift": 2.0,
        "validation_every": 0,
        "trackers": (),
        "seed": 31,
    }
    started = time.time()
    train(TrainConfig.of(common | settings))
    return arguments.out / name / "control", time.time() - started


def row(held_out: HeldOut, controls: Mapping[str, Control | None]) -> dict[str, float]:
    return {kind: round(held_out.loss(controls[kind], kind), 4) for kind in KINDS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1200, help="of the union; each of the others takes a third")
    parser.add_argument("--batch-size", type=int, default=24)
    parser.add_argument("--data", type=Path, default=Path("data/latents-union.npz"))
    parser.add_argument("--held-out", type=int, default=128, help="scenes")
    parser.add_argument("--device", default="cpu", choices=("cpu", "auto"))
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    arguments = parser.parse_args()
    base = tether.load_base("tether")
    held_out = HeldOut(base, arguments.held_out)
    table: dict[str, dict[str, float]] = {"no control": row(held_out, dict.fromkeys(KINDS))}
    for way, family in WAYS.items():
        runs = {
            kind: trained(
                arguments, f"{way}-{kind}", condition=kind, family=family, steps=arguments.steps // len(KINDS)
            )
            for kind in KINDS
        }
        controls = {kind: load_control(folder, base=base, kind=kind) for kind, (folder, _) in runs.items()}
        table[way] = about([folder for folder, _ in runs.values()], sum(seconds for _, seconds in runs.values()))
        table[way] |= row(held_out, controls)
        print(way, table[way], flush=True)
    folder, seconds = trained(arguments, "union", condition=KINDS, steps=arguments.steps)
    controls = {kind: load_control(f"{folder}:{kind}", base=base) for kind in KINDS}
    table["union"] = about([folder], seconds) | row(held_out, controls)
    (arguments.out / "table.json").write_text(json.dumps(table, indent=1) + "\n")
    print(json.dumps(table, indent=1))


def about(folders: list[Path], seconds: float) -> dict[str, float]:
    """Megabytes in float16, half of the float32 that training writes, and seconds."""
    size = sum(path.stat().st_size for folder in folders for path in folder.glob("*.safetensors"))
    return {"MB": round(size / 2e6, 1), "seconds": round(seconds)}


if __name__ == "__main__":
    main()
