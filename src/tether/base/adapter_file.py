"""The file of a LoRA or an embedding."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from tether.errors import TetherError
from tether.files.checkpoints import Checkpoint, open_checkpoint
from tether.files.hub import find
from tether.files.paths import local_path, name_on_hub

__all__ = ["fetch_beside", "open_adapter"]


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


def fetch_beside(ref: str | Path, name: str, what: str) -> None:
    """Downloads another file of the same folder, if `ref` names a file on the hub that has one beside it."""
    if local_path(ref) is not None:
        return
    found = name_on_hub(ref, what)
    if found["file"] is None:
        return  # a whole folder was fetched
    text, (start, end) = str(ref), found.span("file")
    folder = found["file"].rpartition("/")[0]
    with suppress(TetherError):
        find(f"{text[:start]}{folder}/{name}{text[end:]}", what)
