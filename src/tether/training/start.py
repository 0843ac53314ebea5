"""What a run starts from: the base, and a fresh control, a control from disk, or one from another run's checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from tether.base import Base, load_base
from tether.control import ControlNet, UnionControlNet, load_control
from tether.control.control import Control, family
from tether.control.transfer import transferred
from tether.errors import TetherError
from tether.files.materialize import check_fits_network
from tether.training.checkpoints import list_checkpoints, read_checkpoint
from tether.training.config import TrainConfig
from tether.training.objective import check_skips_are_silent

__all__ = ["open_start"]


def open_start(config: TrainConfig) -> tuple[Base, Control]:
    """The base in float32, on its device, and the control that training starts from.

    Raises:
        TetherError: when one of them cannot be opened, or they do not fit each other.
    """
    device = PartialState(cpu=config.device == "cpu").device or torch.device("cpu")
    base = load_base(config.base, device=device)
    if base.denoiser.spec.input_channels != base.denoiser.spec.latent_channels:
        raise TetherError(f"base {base.name} is for inpainting, its input has mask channels: train on a plain base")
    try:
        control = _first_control(config, base, device)
    except TetherError:
        if config.start_from is None or not list_checkpoints(config.out / "checkpoints"):
            raise
        # What a run started from may be deleted: its own checkpoints hold everything, and must fit.
        control = _fresh_control(config, base)
    control.kind = None if config.trains_union else config.turns[0]
    if config.only_middle:
        check_skips_are_silent(control)
    return base, control


def _first_control(config: TrainConfig, base: Base, device: torch.device) -> Control:
    """What training starts from when there is no checkpoint yet."""
    if config.start_from is None:
        return _fresh_control(config, base)
    if (Path(config.start_from) / "manifest.json").is_file():
        control = _of_checkpoint(Path(config.start_from), base, config)
    else:
        control = load_control(config.start_from, device=device)  # without the base: it will be trained
        control.check_fits(base)
        control = _as_union(control, config)
    if config.start_base is not None:
        before = load_base(config.start_base, device=device).unet.state_dict()
        control.load_state_dict(transferred(control.state_dict(), before, base.unet.state_dict()))
    return control


def _fresh_control(config: TrainConfig, base: Base) -> Control:
    torch.manual_seed(config.seed)
    settings: dict[str, Any] = {"hint": config.hint} if config.family in ("controlnet", "union") else {}
    if config.trains_union:
        settings["kinds"] = config.kinds
    return family(config.family).from_base(base, **settings)


def _as_union(control: Control, config: TrainConfig) -> Control:
    """The control as a union of the run's kinds, if it is to be one."""
    if not config.trains_union:
        return control.of_kind(config.kinds[0])
    if not isinstance(control, ControlNet):
        raise TetherError(f"a union starts from a ControlNet or a union; {config.start_from} is a {control.family!r}")
    fits = isinstance(control, UnionControlNet) and control.kinds == config.kinds
    return control if fits else UnionControlNet.from_control(control, config.kinds)


def _of_checkpoint(folder: Path, base: Base, config: TrainConfig) -> Control:
    """The control in a checkpoint of another run: the average if there is one."""
    tensors = read_checkpoint(folder).tensors
    prefix, found = "control.", tensors.get("average") or tensors["model"]
    control = _fresh_control(config, base)
    own = {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}
    check_fits_network(control.state_dict(), own, f"the control in {folder}")
    control.load_state_dict(own)
    return control
