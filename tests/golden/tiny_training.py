"""A tiny training run whose losses are recorded in training_losses.json.

    OMP_NUM_THREADS=1 PYTHONPATH=src python tests/golden/tiny_training.py          (records them)

The base, the control and the samples are those of tests/training/tiny.py at commit 2ffee90, copied here so that the
recorded losses do not change with that file. If names move, adapt the imports; the numbers must stay.
"""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from tether import Base, ControlNet
from tether.base import TextEncoders
from tether.control import Conditioning
from tether.training.batch import Batch
from tether.training.config import TrainConfig
from tether.training.trainer import Trainer

FACTS = Path(__file__).with_name("training_losses.json")
WIDTH = 12
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
RUNS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "many options": {
        "ema": 0.9,
        "max_grad_norm": 1.0,
        "gradient_accumulation": 2,
        "warmup_steps": 3,
        "schedule": "cosine",
        "final_learning_rate": 0.1,
        "min_snr": 5.0,
        "noise_offset": 0.1,
    },
    "middle only": {"only_middle": True, "seed": 4, "weight_decay": 0.1, "betas": (0.8, 0.95)},
    "decoder too, adafactor": {"unlock_decoder": True, "optimizer": "adafactor", "schedule": "linear"},
    "velocity": {"min_snr": 5.0},
}
"""Settings of each run; "velocity" is the one whose base predicts velocity."""


def make_base(**schedule: Any) -> Base:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=2,
    )
    text = torch.nn.Linear(2, 2)
    return Base(unet, vae, TextEncoders((SimpleNamespace(), text)), SCHEDULE | schedule)


def make_control(base: Base) -> ControlNet:
    torch.manual_seed(1)
    return cast(ControlNet, ControlNet.from_unet(base.unet, hint_channels=(4, 4, 8, 8)))


def batches(samples: range) -> Batch:
    """Sample n is drawn by a generator of seed 7000 + n: the same whatever batch it comes in."""
    each = [torch.Generator().manual_seed(7000 + number) for number in samples]
    return Batch(
        torch.stack([torch.randn(4, 8, 8, generator=g) for g in each]),
        torch.stack([torch.rand(3, 64, 64, generator=g) for g in each]),
        Conditioning(torch.stack([torch.randn(5, WIDTH, generator=g) for g in each])),
        [f"sample {number}" for number in samples],
    )


def train(out: Path, name: str) -> dict[str, list[float]]:
    """The run of a name in `RUNS`, 8 steps on the CPU: loss, learning rate and gradient norm of each step."""
    settings = {
        "out": out,
        "steps": 8,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "checkpoint_every": 4,
        "watch_every": 0,
        "precision": "no",
        "device": "cpu",
        "trackers": (),
    }
    base = make_base(**({"prediction_type": "v_prediction"} if name == "velocity" else {}))
    trainer = Trainer(base, make_control(base), batches, TrainConfig.of(settings | RUNS[name]))
    seen: list[Any] = []
    trainer.on_progress = seen.append
    trainer.fit()
    trainer.end()
    return {
        "loss": [one.loss for one in seen],
        "learning_rate": [one.learning_rate for one in seen],
        "gradient_norm": [one.gradient_norm for one in seen],
    }


def main() -> None:
    from draw import machine

    torch.set_num_threads(1)
    facts: dict[str, Any] = {"machine": machine(), "threads": 1, "versions": {}, "runs": {}}
    facts["versions"] = {name: version(name) for name in ("torch", "diffusers", "accelerate", "transformers")}
    for name in RUNS:
        with tempfile.TemporaryDirectory() as room:
            facts["runs"][name] = train(Path(room) / "run", name)
    FACTS.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
