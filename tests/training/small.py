"""A small config of a whole run, for `tether.training.run.train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tether.training.config import TrainConfig

__all__ = ["config"]


def config(folder: Path, base: Path, data: Path, **settings: Any) -> TrainConfig:
    """Four steps of two samples, in `folder / "run"`."""
    small = {
        "steps": 4,
        "batch_size": 2,
        "crops": 2,
        "learning_rate": 1e-3,
        "checkpoint_every": 2,
        "validation_every": 2,
        "validation_images": 2,
        "validation_steps": 2,
        "precision": "no",
        "device": "cpu",
        "trackers": (),
        "ema": 0.9,
    }
    return TrainConfig.of(small | {"out": folder / "run", "base": str(base), "data": str(data)} | settings)
