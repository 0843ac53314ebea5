"""The whole state of a running training as tensors by name, and back, bit for bit.

It is the same whether the parameters lie on one device, are copied to many (DDP) or are spread over them (FSDP), so a
run may go on with another number of processes. What is gathered is given to the main process; the others get empty
dictionaries.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

__all__ = ["load_optimizer", "load_random", "load_weights", "optimizer_tensors", "random_tensors", "weights"]

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, gathered; on the CPU. No copies where they lie there whole already."""
    return cast(dict[str, Tensor], get_model_state_dict(model, options=_WHOLE))


@torch.no_grad()
def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """The reverse of `weights`; the parameters keep their memory layout."""
    set_model_state_dict(model, dict(tensors), options=StateDictOptions(full_state_dict=True))


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as "PARAMETER/STATE" -> tensor, gathered; on the CPU.

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


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The reverse of `optimizer_tensors`. The groups' settings stay those of `optimizer`."""
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
    set_optimizer_state_dict(model, optimizer, whole, options=everywhere)
    # A fused optimiser walks over memory: its states must lie there as the parameter does (channels last, say).
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def random_tensors() -> dict[str, Tensor]:
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


def load_random(tensors: Mapping[str, Tensor]) -> None:
    """The reverse of `random_tensors`; devices that are not there any more are passed over."""
    torch.set_rng_state(tensors["torch"])
    *keys, position, has_gauss = tensors["numpy"].tolist()
    state = ("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, tensors["numpy.gauss"].item())
    np.random.set_state(state)  # noqa: NPY002
    version, *words = tensors["python"].tolist()
    random.setstate((version, tuple(words), *(tensors["python.gauss"].tolist() or [None])))
    for index in range(torch.cuda.device_count()):
        if f"cuda.{index}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda.{index}"], index)
