"""Training a control: the objective, the loop, checkpoints that resume exactly, and detection of sudden convergence.

Names are imported when they are first used, so that the objective alone does not import accelerate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether._lazy import lazy

if TYPE_CHECKING:
    from tether.training.batch import Batch
    from tether.training.config import TrainConfig
    from tether.training.run import dry_run, train
    from tether.training.trainer import Trainer

__all__ = ["Batch", "TrainConfig", "Trainer", "dry_run", "train"]

_HOMES = {
    "Batch": ".batch",
    "TrainConfig": ".config",
    "Trainer": ".trainer",
    "dry_run": ".run",
    "train": ".run",
}


__getattr__ = lazy(__name__, _HOMES)
