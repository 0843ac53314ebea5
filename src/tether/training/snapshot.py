"""What a run is at a moment, as a checkpoint, and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object
from torch import Tensor

from tether.errors import TetherError
from tether.training.checkpoints import Checkpoint
from tether.training.config import TrainConfig
from tether.training.events import Look
from tether.training.state import (
    load_optimizer,
    load_random,
    load_weights,
    optimizer_tensors,
    random_tensors,
    weights,
)

if TYPE_CHECKING:
    from tether.training.trainer import Trainer

__all__ = ["capture", "restore"]


def capture(trainer: Trainer) -> Checkpoint:
    """The state of a run, gathered from all processes; the others than the main one get no tensors."""
    tensors: dict[str, dict[str, Tensor]] = {
        "model": weights(trainer.model),
        "optimizer": optimizer_tensors(trainer.model, trainer.optimizer),
    }
    if trainer.average is not None:
        with trainer.average.swapped():
            tensors["average"] = {name: tensor.clone() for name, tensor in weights(trainer.model).items()}
    each = gather_object([random_tensors()])
    tensors["random"] = {f"{rank}/{name}": t for rank, found in enumerate(each) for name, t in found.items()}
    state: dict[str, Any] = {
        "samples": trainer.samples,
        "global_batch": trainer.global_batch,
        "curve": [asdict(look) for look in trainer.curve],
        "converged_at": trainer.converged_at,
        "appeared_at": trainer.appeared_at,
        "identity": trainer.identity,
        "first_losses": trainer.loss_limit.first_losses,
        "scaler": trainer.scaler.state_dict(),
        "settings": trainer.config.model_dump(mode="json"),
    }
    return Checkpoint(trainer.step, tensors, state)


def restore(trainer: Trainer, found: Checkpoint) -> None:
    """Puts a run where the checkpoint was taken.

    Raises:
        TetherError: where it belongs to a run with other settings, another base, other data or other steps.
    """
    _check_continues(trainer, found)
    if trainer.average is not None:
        load_weights(trainer.model, found.tensors["average"])
        for average, parameter in zip(trainer.average.averages, trainer.parameters, strict=True):
            average.copy_(parameter.detach())
    load_weights(trainer.model, found.tensors["model"])
    load_optimizer(trainer.model, trainer.optimizer, found.tensors["optimizer"])
    mine = f"{trainer.accelerator.process_index}/"
    random = {n.removeprefix(mine): t for n, t in found.tensors["random"].items() if n.startswith(mine)}
    if random:
        load_random(random)
    trainer.step = trainer.saved_step = found.step
    trainer.samples, trainer.converged_at = found.state["samples"], found.state["converged_at"]
    trainer.appeared_at = found.state.get("appeared_at")
    trainer.curve = [Look(**look) for look in found.state["curve"]]
    trainer.loss_limit.first_losses = found.state["first_losses"]
    if trainer.scaler.is_enabled():
        trainer.scaler.load_state_dict(found.state["scaler"])


def _check_continues(trainer: Trainer, found: Checkpoint) -> None:
    out, batch = trainer.config.out, found.state["global_batch"]
    trainer.config.check_continues(TrainConfig.of(found.state["settings"]))
    for what, mine in trainer.identity.items():
        if found.state.get("identity", {}).get(what, mine) != mine:
            raise TetherError(f"{out} holds a run with another {what} of that name: give another folder")
    if trainer.global_batch != batch:
        raise TetherError(
            f"{out} holds a run with {batch} samples a step, these settings make {trainer.global_batch}: set "
            f"batch_size and gradient_accumulation so that over {trainer.accelerator.num_processes} processes there "
            "are as many"
        )
