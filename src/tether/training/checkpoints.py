"""Checkpoints on disk, whole or not there at all.

    checkpoints/step-00000250/            one folder per checkpoint; "-converged" at the end marks that one
        model.safetensors                 what is trained
        average.safetensors               its moving average, if there is one
        optimizer.safetensors             "NAME/STATE" for each parameter and state of the optimizer
        random.safetensors                states of the global random generators
        state.json                        step, samples seen, fidelity so far (under the key "obedience"), settings, ...
        manifest.json                     size and SHA-256 of each file above

A checkpoint is written into a temporary folder, flushed to disk, and renamed, which a file system does or does not do,
but never half. Reading one checks every hash first: one that is torn or has flipped bits is skipped with a warning, and
the one before is read. Nothing is unpickled.
"""

from __future__ import annotations

import json
import logging
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
from tether.files.atomic import atomic_write, remove_leftovers
from tether.files.hashing import hash_file

__all__ = ["Checkpoint", "latest_checkpoint", "list_checkpoints", "read_checkpoint", "save_checkpoint"]

logger = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d{8})(-[a-z]+)?")
_PART = ".part-"  # of a checkpoint that is being deleted, or was being written by an earlier version


@dataclass
class Checkpoint:
    """The captured state of a run.

    Attributes:
        step: optimizer steps done.
        tensors: file stem -> name -> tensor: "model", "optimizer", "random", and "average" if there is one.
        state: everything else, plain JSON.
        control: what a control's folder has beside its weights, so that a checkpoint opens as a control: file name ->
            plain JSON.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any] = field(default_factory=dict)
    control: dict[str, dict[str, Any]] = field(default_factory=dict)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first. They may be torn: `latest_checkpoint` checks."""
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: path.name)


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int, tag: str = "") -> Path:
    """Writes a checkpoint; if this fails, the earlier ones are untouched.

    Args:
        folder: the folder of the checkpoints.
        checkpoint: the state.
        keep: how many of the latest to keep, this one included. Tagged ones are always kept.
        tag: a word of lower-case letters that marks it, "converged".

    Returns:
        Its folder.

    Raises:
        TetherError: when the disk is full or not writable.
    """
    path = folder / (f"step-{checkpoint.step:08d}" + (f"-{tag}" if tag else ""))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        with atomic_write(path) as part:
            part.mkdir()
            for stem, tensors in checkpoint.tensors.items():
                save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, _path(part, stem))
            _write_json(part / "state.json", {"step": checkpoint.step} | checkpoint.state)
            for name, content in checkpoint.control.items():
                _write_json(part / name, content)
            files = {file.name: _describe(file) for file in sorted(part.iterdir())}
            _write_json(part / "manifest.json", {"format": 1, "files": files})
    except (OSError, SafetensorError, TetherError) as error:
        others = list_checkpoints(folder)
        intact = f"the latest whole one is {others[-1]}" if others else "there is none before it"
        reason = str(error).removeprefix(f"{path} cannot be written: ")
        raise TetherError(
            f"cannot write checkpoint {path}: {reason}; {intact}. Free some disk space and run the command again"
        ) from error
    _drop_old(folder, checkpoint.step, keep)
    return path


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The latest whole checkpoint; None if there is none. Warns about each torn or corrupt one that it skips."""
    for path in reversed(list_checkpoints(folder)):
        try:
            return read_checkpoint(path)
        except TetherError as error:
            logger.warning("%s; using the one before", error)
    return None


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads one checkpoint, every hash checked.

    Raises:
        TetherError: when it is torn or corrupt.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        for name, expected in manifest["files"].items():
            found = _describe(path / name)
            if found != expected:
                raise TetherError(f"checkpoint {path} is corrupt: {name} is not as it was written")
        state = json.loads((path / "state.json").read_text())
        stems = [name.removesuffix(".safetensors") for name in manifest["files"] if name.endswith(".safetensors")]
        if "model" not in stems:
            raise TetherError(f"checkpoint {path} is torn: model.safetensors is missing from its manifest")
        return Checkpoint(state.pop("step"), {stem: load_file(_path(path, stem)) for stem in stems}, state)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise TetherError(f"checkpoint {path} is torn: {str(error).splitlines()[0]}") from error


def _path(folder: Path, stem: str) -> Path:
    return folder / f"{stem}.safetensors"


def _describe(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": hash_file(path)}


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n")


def _remove_leftovers(folder: Path) -> None:
    """Deletes what killed processes have left."""
    remove_leftovers(folder)
    for leftover in folder.glob(f"{_PART}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _discard(path: Path) -> None:
    """Removes a checkpoint; renamed first, so that a kill does not leave half of one under a checkpoint's name."""
    doomed = path.with_name(f"{_PART}{path.name}-old")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _drop_old(folder: Path, step: int, keep: int) -> None:
    """Removes untagged checkpoints up to `step` but for the last; later ones are damaged ones, skipped."""
    names = [(path, _NAME.fullmatch(path.name)) for path in list_checkpoints(folder)]
    plain = [path for path, name in names if name and not name[2] and int(name[1]) <= step]
    for path in plain[:-keep]:
        _discard(path)
