"""A small config of a whole run, and a small family of control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tether.control import Control, Signal
from tether.training.config import TrainConfig

from ..datasets.conftest import picture

__all__ = ["Brightness", "config", "photos"]


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


def photos(folder: Path, count: int = 6, side: int = 96, suffix: str = "png") -> Path:
    """A folder of different images with captions."""
    folder.mkdir()
    for k in range(count):
        picture(k, side, side).save(folder / f"{k}.{suffix}")
        (folder / f"{k}.txt").write_text(f"number {k}")
    return folder


class Brightness(Control):
    """A control of another family: it adds the condition's mean to the middle of the U-Net."""

    family = "brightness"

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(16))

    def encode(self, condition: torch.Tensor) -> torch.Tensor:
        return condition.mean(dim=(1, 2, 3))

    def signal(self, latents: Any, timestep: Any, conditioning: Any, hint: torch.Tensor) -> Signal:
        return Signal({"middle": (hint[:, None] * self.scale)[..., None, None]})
