"""The file of a LoRA or an embedding."""

from __future__ import annotations

from pathlib import Path

from tether.errors import TetherError
from tether.files.checkpoints import Checkpoint, open_checkpoint
from tether.files.hub import find

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
        files = sorted(path.glob("*.safetensors")) or sorted(path.glob("*.bin"))
        if len(files) != 1:
            raise TetherError(f"{ref} contains {len(files)} files that may be the {what}: name one of them")
        path = files[0]
    return open_checkpoint(path)
