"""Training a control: the objective, the loop, checkpoints that resume exactly, and detection of sudden convergence.

Names are imported when they are first used, so that the objective alone does not import accelerate.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tether.training.batch import Batch
    from tether.training.config import TrainConfig
    from tether.training.run import dry_run, train
    from tether.training.trainer import Trainer

__all__ = ["Batch", "TrainConfig", "Trainer", "dry_run", "train"]

_HOMES = {
    "Batch": "tether.training.batch",
    "TrainConfig": "tether.training.config",
    "Trainer": "tether.training.trainer",
    "dry_run": "tether.training.run",
    "train": "tether.training.run",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
