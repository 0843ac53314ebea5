"""Checkpoints that are whole or not there.

    checkpoints/step-00000250/            one folder a checkpoint; "-converged" at the end marks that one
        model.safetensors                 what is trained
        average.safetensors               its moving average, where there is one
        optimizer.safetensors             "NAME/STATE" for each parameter and state of the optimiser
        random.safetensors                states of the global random generators
        state.json                        step, samples seen, obedience so far, ...
        manifest.json                     size and SHA-256 of each file above

A checkpoint is written into a temporary folder, flushed to the disk file by file, and then renamed, which a file
system does or does not do but never half. Reading one means checking every hash first: one that is torn, or whose
bits have turned, is passed over for the one before, with a warning. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tether.errors import TetherError

__all__ = ["Checkpoint", "latest_checkpoint", "list_checkpoints", "read_checkpoint", "save_checkpoint"]

logger = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d{8})(-[a-z]+)?")
_PART = ".part-"


@dataclass
class Checkpoint:
    """The state of a run.

    Attributes:
        step: optimiser steps done.
        tensors: file stem -> name -> tensor: "model", "optimizer", "random", and "average" where there is one.
        state: everything else, plain JSON.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any] = field(default_factory=dict)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first. They may be torn: `latest_checkpoint` checks."""
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: path.name)


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int, tag: str = "") -> Path:
    """Writes a checkpoint; where this fails, those before it are untouched.

    Args:
        folder: where the checkpoints are.
        checkpoint: the state.
        keep: how many of the last stay, this one counted. Tagged ones always stay.
        tag: a word of lower-case letters that marks it, "converged".

    Returns:
        Its folder.

    Raises:
        TetherError: where the disk is full or cannot be written.
    """
    name = f"step-{checkpoint.step:08d}" + (f"-{tag}" if tag else "")
    part = folder / f"{_PART}{name}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(f"{_PART}*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        part.mkdir()
        for stem, tensors in checkpoint.tensors.items():
            save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, _path(part, stem))
        _write_json(part / "state.json", {"step": checkpoint.step} | checkpoint.state)
        files = {path.name: _describe(path) for path in sorted(part.iterdir())}
        _write_json(part / "manifest.json", {"format": 1, "files": files})
        for path in (*part.iterdir(), part):
            _flush(path)
        _replace(part, folder / name)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        others = list_checkpoints(folder)
        intact = f"the last whole one is {others[-1]}" if others else "there is none before it"
        raise TetherError(
            f"cannot write checkpoint {folder / name}: {reason}; {intact}. Make room and run the command again"
        ) from error
    _drop_old(folder, checkpoint.step, keep)
    return folder / name


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The last whole checkpoint; None where there is none. Warns of each torn or corrupt one it passes over."""
    for path in reversed(list_checkpoints(folder)):
        try:
            return read_checkpoint(path)
        except TetherError as error:
            logger.warning("%s; taking the one before", error)
    return None


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads one checkpoint, every hash checked.

    Raises:
        TetherError: where it is torn or corrupt.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        for name, expected in manifest["files"].items():
            found = _describe(path / name)
            if found != expected:
                raise TetherError(f"checkpoint {path} is corrupt: {name} is not what was written")
        state = json.loads((path / "state.json").read_text())
        stems = [name.removesuffix(".safetensors") for name in manifest["files"] if name.endswith(".safetensors")]
        if "model" not in stems:
            raise TetherError(f"checkpoint {path} is torn: its manifest names no model.safetensors")
        return Checkpoint(state.pop("step"), {stem: load_file(_path(path, stem)) for stem in stems}, state)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise TetherError(f"checkpoint {path} is torn: {str(error).splitlines()[0]}") from error


def _path(folder: Path, stem: str) -> Path:
    return folder / f"{stem}.safetensors"


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n")


def _flush(path: Path) -> None:
    """Waits until a file, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(part: Path, path: Path) -> None:
    """Renames `part` to `path`; what was there, a corrupt checkpoint of the same step, goes."""
    if path.exists():
        _discard(path)
    part.rename(path)


def _discard(path: Path) -> None:
    """Removes a checkpoint; renamed first, so that a kill leaves no half one under a checkpoint's name."""
    doomed = path.with_name(f"{_PART}{path.name}-old")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _drop_old(folder: Path, step: int, keep: int) -> None:
    """Removes untagged checkpoints up to `step` but for the last; any later ones are damaged ones, passed over."""
    names = [(path, _NAME.fullmatch(path.name)) for path in list_checkpoints(folder)]
    plain = [path for path, name in names if name and not name[2] and int(name[1]) <= step]
    for path in plain[:-keep]:
        _discard(path)
