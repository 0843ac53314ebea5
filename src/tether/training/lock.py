"""One process trains in a folder at a time."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from tether.files.lock import locked as held

__all__ = ["locked"]


def locked(folder: Path, *, wanted: bool = True) -> AbstractContextManager[None]:
    """Holds a run's folder while the block runs; see `tether.files.lock`.

    Args:
        folder: made if it does not exist.
        wanted: False does nothing: of a distributed run, the main process alone holds the folder.

    Raises:
        TetherError: when another process holds it, or the folder cannot be written.
    """
    return (
        held(folder, "is being trained by another process: wait for it, or give another --out")
        if wanted
        else nullcontext()
    )
