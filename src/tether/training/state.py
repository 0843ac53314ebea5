"""What a run is at any moment: one object, and tensors by name.

`RunState` holds everything that changes while a run trains: weights, their average, the optimizer, the loss scaler, the
step, the samples seen, the validations. `capture` gives it as a `Checkpoint`, `restore` takes it from one, bit for bit.

The tensors are the same whether the parameters are on one device, copied to many (DDP) or spread over them (FSDP), so a
run may be resumed by another number of processes. What is gathered is given to the main process; the others get empty
dictionaries.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from tether.training.average import MovingAverage
from tether.training.checkpoints import Checkpoint
from tether.training.divergence import LossLimit
from tether.training.events import Validation

__all__ = ["RunState"]

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


@dataclass
class RunState:
    """Everything that changes while a run trains.

    Attributes:
        model: what is trained, as the processes share it (wrapped by DDP or FSDP).
        optimizer: its optimizer.
        scaler: loss scaling, for float16.
        loss_limit: what a step's loss may be.
        average: moving average of the weights, if there is one.
        step: steps done.
        samples: samples seen.
        curve: the validations.
        converged_at, appeared_at: as in `tether.training.events.Outcome`.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    loss_limit: LossLimit
    average: MovingAverage | None = None
    step: int = 0
    samples: int = 0
    curve: list[Validation] = field(default_factory=list)
    converged_at: int | None = None
    appeared_at: int | None = None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def weights(self, prefix: str = "") -> dict[str, Tensor]:
        """The weights whose names begin with `prefix`, without it, gathered; on the CPU, uncopied where possible."""
        found = _weights(self.model)
        return {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}

    def averaged(self) -> Any:
        """A context in which the model's weights are their average, if there is one."""
        return nullcontext() if self.average is None else self.average.swapped()

    def capture(self, terms: Mapping[str, Any] | None = None) -> Checkpoint:
        """The state, gathered from all processes; only the main one gets tensors.

        Args:
            terms: plain values to keep beside it: what run it is.
        """
        tensors: dict[str, dict[str, Tensor]] = {
            "model": _weights(self.model),
            "optimizer": _optimizer_tensors(self.model, self.optimizer),
        }
        if self.average is not None:
            with self.average.swapped():
                tensors["average"] = {name: tensor.clone() for name, tensor in _weights(self.model).items()}
        each = gather_object([_random_tensors()])
        tensors["random"] = {f"{rank}/{name}": t for rank, found in enumerate(each) for name, t in found.items()}
        state: dict[str, Any] = {
            "samples": self.samples,
            "curve": [validation.to_json() for validation in self.curve],
            "converged_at": self.converged_at,
            "appeared_at": self.appeared_at,
            "first_losses": self.loss_limit.first_losses,
            "scaler": self.scaler.state_dict(),
        }
        return Checkpoint(self.step, tensors, state | dict(terms or {}))

    def restore(self, found: Checkpoint, process: int = 0) -> None:
        """Takes over a captured state; `process` is this process's number."""
        if self.average is not None:
            _load_weights(self.model, found.tensors["average"])
            self.average.reset()
        _load_weights(self.model, found.tensors["model"])
        _load_optimizer(self.model, self.optimizer, found.tensors["optimizer"])
        mine = f"{process}/"
        own = {name.removeprefix(mine): t for name, t in found.tensors["random"].items() if name.startswith(mine)}
        if own:
            _load_random(own)
        self.step, self.samples = found.step, found.state["samples"]
        self.converged_at, self.appeared_at = found.state["converged_at"], found.state.get("appeared_at")
        self.curve = [Validation.from_json(one) for one in found.state["curve"]]
        self.loss_limit.first_losses = found.state["first_losses"]
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(found.state["scaler"])


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, gathered; on the CPU. Not copied if they are whole on the CPU already."""
    return cast(dict[str, Tensor], get_model_state_dict(model, options=_WHOLE))


@torch.no_grad()
def _load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """The reverse of `_weights`; the parameters keep their memory layout."""
    set_model_state_dict(model, dict(tensors), options=StateDictOptions(full_state_dict=True))


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as "PARAMETER/STATE" -> tensor, gathered; on the CPU.

    A state that is a mapping has one more "/": the scales of 8-bit states are in one.
    """
    whole: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=_WHOLE)
    return _flat(whole.get("state", {}))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    flat: dict[str, Tensor] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}/")
        else:
            tensor = value if isinstance(value, Tensor) else torch.tensor(value)
            # All 8-bit states share one small table, and a file of weights has no place for shared memory.
            flat[prefix + key] = tensor.clone() if prefix.count("/") > 1 else tensor
    return flat


def _load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The reverse of `_optimizer_tensors`. The groups' settings stay those of `optimizer`."""
    if not tensors:
        return
    everywhere = StateDictOptions(full_state_dict=True)
    whole: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=everywhere)
    state: dict[str, Any] = {}
    for key, value in tensors.items():
        *path, last = key.split("/")
        inner = state
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    whole["state"] = state
    # Parameters that never had a gradient have no state: those of a union's kinds that were not shown yet. PyTorch
    # gives them one, of a step without gradients, with which they would not learn as they would have.
    set_optimizer_state_dict(model, optimizer, whole, options=StateDictOptions(full_state_dict=True, strict=False))
    for name, parameter in model.named_parameters():
        if name.removeprefix("module.") not in state:  # DDP's prefix
            optimizer.state.pop(parameter, None)
    # A fused optimizer walks over memory: its states must have the parameter's layout (channels last, say).
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _random_tensors() -> dict[str, Tensor]:
    """The states of the global random generators: PyTorch's (each device's), NumPy's and Python's."""
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002 - the global one is meant
    version, words, next_gauss = random.getstate()
    tensors = {
        "torch": torch.get_rng_state(),
        "numpy": torch.tensor([*map(int, keys), int(position), int(has_gauss)]),
        "numpy.gauss": torch.tensor([float(gauss)], dtype=torch.float64),
        "python": torch.tensor([version, *words]),
        "python.gauss": torch.tensor([] if next_gauss is None else [next_gauss], dtype=torch.float64),
    }
    for index in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
        tensors[f"cuda.{index}"] = torch.cuda.get_rng_state(index)
    return tensors


def _load_random(tensors: Mapping[str, Tensor]) -> None:
    """The reverse of `_random_tensors`; devices that no longer exist are skipped."""
    torch.set_rng_state(tensors["torch"])
    *keys, position, has_gauss = tensors["numpy"].tolist()
    state = ("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, tensors["numpy.gauss"].item())
    np.random.set_state(state)  # noqa: NPY002
    version, *words = tensors["python"].tolist()
    random.setstate((version, tuple(words), *(tensors["python.gauss"].tolist() or [None])))
    for index in range(torch.cuda.device_count()):
        if f"cuda.{index}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda.{index}"], index)
