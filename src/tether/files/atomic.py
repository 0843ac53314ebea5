"""Files and folders are written completely or not at all.

Everything is written to a temporary neighbor of the target, flushed to disk (fsync), and renamed to the target in one
step. If the disk fills up, the process is killed or the block raises, the target keeps its old content.

    with atomic_write(out / "result.json") as part:        # a file
        part.write_text(json.dumps(result))
    with atomic_write(out / "step-00000100") as part:      # a folder: make it, then fill it
        part.mkdir()
        save_file(tensors, part / "model.safetensors")
    write_text(out / "result.json", json.dumps(result))    # short for the first

Replacing an existing folder takes two renames. If the process is killed between them, the old folder is still there as
`.NAME.XXXXXXXX.old`.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tether.errors import TetherError

__all__ = ["atomic_write", "make_folder", "remove_leftovers", "write_new", "write_text"]

_LEFTOVER = re.compile(r"\..*\.[0-9a-f]{8}\.part(\..*)?")


@contextmanager
def atomic_write(path: Path | str, *, parents: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path`; the file or folder written there replaces `path` at the end of the block.

    If the block raises, `path` is unchanged and the temporary path is deleted. Safe to call from several threads and
    processes: the last one to finish wins.

    Args:
        path: the target, a file or a folder. Writing a file over a folder, or a folder over a file, fails.
        parents: create missing parent folders.

    Yields:
        The temporary path, with the suffix of `path`. Nothing is there yet: write a file, or make a folder.

    Raises:
        TetherError: for any OSError in the block or while renaming: "PATH cannot be written: REASON"; and if `path` is
            the working directory, or a folder above it.
    """
    given, path = path, _named(Path(path))
    hidden = f".{path.stem[:40]}.{uuid.uuid4().hex[:8]}"
    part, old = path.with_name(f"{hidden}.part{path.suffix[:20]}"), path.with_name(f"{hidden}.old")
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        _flush_tree(part)
        if part.is_dir() and path.is_dir():
            os.replace(path, old)
        os.replace(part, path)
        _flush(path.parent)
    except OSError as error:
        raise _not_written(given, error) from error
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        _remove(old)
        _remove(part)


def _named(path: Path) -> Path:
    """A target with a name, beside which to write: "." and "link/.." have none.

    Raises:
        TetherError: if it is the working directory, or a folder above it; or if the working directory was deleted.
    """
    try:
        named = path.resolve() if path.name in ("", "..") else path
        inside = named.is_dir() and Path.cwd().is_relative_to(named.resolve())
    except OSError as error:
        raise _not_written(path, error) from error
    if inside:
        raise TetherError(f"{path} cannot be written: it is the working directory or contains it; give another name")
    return named


def _not_written(path: Path | str, error: OSError) -> TetherError:
    return TetherError(f"{path} cannot be written: {error.strerror or error or type(error).__name__}")


def make_folder(path: Path) -> None:
    """Makes a folder, and those above it, if it does not exist.

    Raises:
        TetherError: if it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TetherError(f"{path} cannot be made as a folder: {error.strerror or error}") from None


def write_new(paths: Iterable[Path], write: Callable[[Path], None]) -> Path:
    """Writes a file under the first name that is free, and replaces none, whatever other processes write there.

    Args:
        paths: the names to try, all in one folder and with one suffix.
        write: called once with a temporary path beside them.

    Returns:
        The path that was written.

    Raises:
        TetherError: if it cannot be written.
    """
    names = iter(paths)
    path = next(names)
    part = path.with_name(f".{path.stem[:40]}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        write(part)
        while not _published(part, path):
            path = next(names)
        return path
    except OSError as error:
        raise TetherError(f"{path} cannot be written: {error.strerror or error}") from error
    except TetherError as error:
        raise TetherError(str(error).replace(str(part), str(path))) from error
    finally:
        _remove(part)


def _published(part: Path, path: Path) -> bool:
    """Gives a complete file its name; False if there is one of that name."""
    try:
        os.link(part, path)  # unlike a rename, this never replaces a file
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: the name is taken first, then the file
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        os.replace(part, path)
    return True


def write_text(path: Path | str, text: str, *, encoding: str = "utf-8", errors: str = "strict") -> None:
    """Writes a text file atomically.

    Raises:
        TetherError: if it cannot be written.
    """
    with atomic_write(path) as part:
        part.write_text(text, encoding=encoding, errors=errors)


def remove_leftovers(folder: Path) -> None:
    """Deletes the temporary files and folders that killed processes left in `folder`; none may be writing there."""
    for path in folder.glob(".*"):
        if _LEFTOVER.fullmatch(path.name):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _flush_tree(path: Path) -> None:
    for each in [*path.rglob("*"), path]:
        _flush(each)


def _flush(path: Path) -> None:
    """Waits until a file's bytes, or a folder's list of files, are on disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open folders
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
