"""The file of a LoRA or an embedding."""

from __future__ import annotations

from pathlib import Path

from tether.files.checkpoints import Checkpoint, open_checkpoint
from tether.files.hub import find, only_file

__all__ = ["open_adapter"]


def open_adapter(ref: str | Path, what: str) -> Checkpoint:
    """Opens the file of a LoRA or an embedding.

    Args:
        ref: a file, a folder with one, or a name on the hub.
        what: what it should be, for messages.

    Raises:
        TetherError: if nothing is there, the folder has several, or the file is damaged.
    """
    path = find(ref, what, any_file=True)
    if path.is_dir():
        path = path / only_file((file.name for file in path.iterdir()), ref, what)
    return open_checkpoint(path)
