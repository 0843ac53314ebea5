"""One process uses a folder at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tether.errors import TetherError

__all__ = ["locked"]

FILE = ".lock"


@contextmanager
def locked(folder: Path, held: str) -> Iterator[None]:
    """Holds a folder while the block runs. The lock ends with the process, however that ends.

    Args:
        folder: made if it does not exist.
        held: what the error says after its path when another process holds it.

    Raises:
        TetherError: when another process holds it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise TetherError(f"{folder} cannot be written: {error.strerror}") from None
    try:
        if not _taken(descriptor):
            raise TetherError(f"{folder} {held}")
        yield
    finally:
        os.close(descriptor)  # which ends the lock; the file stays, as another process may just open it


def _taken(descriptor: int) -> bool:
    """Locks an open file without waiting; False if another process has it."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
