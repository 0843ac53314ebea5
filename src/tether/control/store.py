"""A control's folder: config.json, one file of weights, and tether.json with the kind of its condition images.

    config.json   {"tether_family": "my-adapter", "settings": {...}}; for a ControlNet, diffusers' own config
    tether.json   {"kind": "canny", "sides": 0.6}: both may be left out

This is the default format of every family. ControlNet's other layouts are in `tether.control.files`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tether.control.injection import Sides, checked_sides
from tether.errors import TetherError
from tether.files.checkpoints import open_checkpoint
from tether.files.folder import FAMILY, NOTES, read_json, weights_of_folder
from tether.files.materialize import FilePages, cast, check_fits_network
from tether.files.writing import replacing, write_json, write_safetensors

__all__ = [
    "Stored",
    "family_of_folder",
    "fill",
    "notes",
    "read_folder",
    "read_settings",
    "share_equal",
    "trained",
    "write_folder",
]

WEIGHTS = "diffusion_pytorch_model.safetensors"
STATE, CHECKPOINTS, PREFIX = "state.json", "checkpoints", "control."
"""Of a training run: a checkpoint's state, the folder of checkpoints, and what names of its control's weights begin
with; see `tether.training.checkpoints`."""


@dataclass(frozen=True)
class Stored:
    """What a control's folder holds.

    Attributes:
        config: the content of config.json.
        tensors: the weights, mapped from their file.
        kind: the kind of its condition images, or None.
        sides: the recommended `Injection.sides`, or None.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    kind: str | None
    sides: Sides | None = None


def write_folder(
    path: Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    kind: str | None,
    sides: Sides | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes a control's folder as a whole or not at all; a control that is there is replaced.

    Raises:
        TetherError: when it cannot be written, a weight is NaN or infinite, or a folder is there that holds anything
            but a control.
    """
    with replacing(path, force=True, folder_of="control") as part:
        part.mkdir()
        write_safetensors(part / WEIGHTS, tensors, dtype)
        write_json(part / "config.json", dict(config))
        if found := notes(kind, sides):
            write_json(part / NOTES, found)


def notes(kind: str | None, sides: Sides | None) -> dict[str, Any]:
    """The content of tether.json; empty where there is nothing to say."""
    return {name: value for name, value in (("kind", kind), ("sides", sides)) if value is not None}


def read_folder(path: Path) -> Stored:
    """The content of a control's folder.

    Raises:
        TetherError: when a file is missing or damaged.
    """
    config, kind, sides = read_settings(path)
    return Stored(config, _tensors(path), kind, sides)


def read_settings(path: Path) -> tuple[dict[str, Any], str | None, Sides | None]:
    """What a control's folder holds but the weights: config, kind and sides; otherwise as `read_folder`."""
    found = read_json(path / NOTES) if (path / NOTES).is_file() else {}
    try:
        sides = checked_sides(found.get("sides"))
    except TetherError as error:
        raise TetherError(f"{path / NOTES}: {error}") from None
    return read_json(path / "config.json"), found.get("kind"), sides


def trained(path: Path) -> Path:
    """The folder of the control that a training run has made so far.

    Args:
        path: a run's folder, its folder of checkpoints, a checkpoint or its weights; a checkpoint of diffusers'
            trainers, or a pipeline's folder with a control in it (`controlnet/`). Anything else is returned as it is.

    Raises:
        TetherError: when the run has no control yet.
    """
    if path.is_file() and (path.parent / STATE).is_file():
        path = path.parent
    if (path / "controlnet" / "config.json").is_file():
        return path / "controlnet"
    if (path / STATE).is_file() and not (path / "config.json").is_file():
        raise TetherError(f"{path} was written by an earlier version: resume its run for a step, or give its control")
    if path.is_dir() and path.name != CHECKPOINTS and (path / "config.yaml").is_file():
        if (path / "control").is_dir():
            return path / "control"
        path = path / CHECKPOINTS
    elif path.name != CHECKPOINTS or not path.is_dir():
        return path
    steps = sorted(found for found in path.glob("step-*") if (found / STATE).is_file())
    if not steps:
        raise TetherError(f"{path.parent} is a training run without a control yet: wait for its first checkpoint")
    return trained(steps[-1])


def _tensors(path: Path) -> dict[str, Tensor]:
    """The weights in a control's folder, or in a checkpoint: of the moving average if there is one."""
    if not (path / STATE).is_file():
        return weights_of_folder(path).tensors
    average = path / "average.safetensors"
    found = open_checkpoint(average if average.is_file() else path / "model.safetensors").tensors
    return {name.removeprefix(PREFIX): tensor for name, tensor in found.items() if name.startswith(PREFIX)}


def family_of_folder(path: Path) -> str | None:
    """The family that config.json names; None for files, and for folders that name none."""
    if not (path / "config.json").is_file():
        return None
    name = read_json(path / "config.json").get(FAMILY)
    return name if isinstance(name, str) else None


def fill(module: nn.Module, tensors: Mapping[str, Tensor], dtype: torch.dtype | None, what: str) -> None:
    """Copies weights into a module that has initial ones.

    Args:
        module: parameters and buffers are overwritten and cast.
        tensors: one for each of the module's, by name.
        dtype: what they are cast to.
        what: the file's name in messages.

    Raises:
        TetherError: when a tensor is missing, left over, of another shape, or NaN or infinite.
    """
    check_fits_network(module.state_dict(), tensors, what)
    module.load_state_dict({name: cast(tensor, dtype, name, what) for name, tensor in tensors.items()})
    module.to(dtype=dtype)


def share_equal(module: nn.Module, other: nn.Module) -> None:
    """Lets parameters of `module` share storage with bitwise equal parameters of the same name in `other`."""
    twins = dict(other.named_parameters())
    pages = FilePages()
    for name, parameter in module.named_parameters():
        twin = twins.get(name)
        if twin is None or _layout(twin) != _layout(parameter):
            continue
        if torch.equal(parameter, twin):
            pages.give_back(parameter)
            parameter.data = twin.data


def _layout(tensor: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return tensor.shape, tensor.dtype, tensor.device
