"""The files that a command reads and writes, checked before anything heavy is imported."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from tether.errors import TetherError

__all__ = ["SUFFIXES", "check_folder", "check_input", "check_not_input", "check_ref", "is_image_file", "same_file"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Of the images that are written."""


def is_image_file(path: Path) -> bool:
    """Whether a name is that of an image to write, not of a folder for images."""
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def check_input(path: Path, what: str = "file") -> None:
    """Raises a TetherError when there is no such file."""
    try:
        if path.is_dir():
            raise TetherError(f"{path} is a folder: expected an image file")
        if not path.exists():
            raise TetherError(f"there is no {what} {path}: check the path")
    except OSError as error:
        raise TetherError(f"there is no {what} {_short(path)}: {error.strerror}") from None


def same_file(one: Path, other: Path) -> bool:
    """Whether two names are of one existing file."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def check_not_input(out: Path, inputs: list[Path], option: str) -> None:
    """Raises a TetherError when an output is one of the inputs."""
    if any(same_file(out, one) for one in inputs):
        raise TetherError(f"{option} {out} is an input, which would be lost: give another name")


def check_folder(path: Path, option: str = "--out") -> None:
    """Refuses a folder that nothing can be written into, without making it.

    Raises:
        TetherError: when it is a file, its name is too long, or it or its nearest existing parent is not writable.
    """
    try:
        if path.exists() and not path.is_dir():
            raise TetherError(f"{option} {path} is a file: give a folder")
        nearest = next(one for one in (path, *path.absolute().parents) if one.exists())
        writable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
        too_long = [part for part in path.parts if len(os.fsencode(part)) > 255]
    except OSError as error:
        raise TetherError(f"{option} {_short(path)} cannot be written: {error.strerror}") from None
    if too_long:
        raise TetherError(f"{option} {_short(path)} cannot be written: a name has more than 255 bytes")
    if not writable:
        raise TetherError(f"{option} {path} cannot be written: {nearest} is not a writable folder")


def check_ref(ref: str) -> None:
    """Refuses a control that is neither shipped, nor a path, nor a name on the hub.

    Raises:
        TetherError: naming the closest shipped control.
    """
    from tether.weights import shipped_controls

    try:
        if "/" in ref or "\\" in ref or Path(ref).expanduser().exists():
            return
    except OSError as error:
        raise TetherError(f"there is no control {ref[:60]}...: {error.strerror}") from None
    known = shipped_controls()
    if ref not in known:
        close = get_close_matches(ref, known, n=1)
        meant = f"did you mean {close[0]}?" if close else f"shipped are {', '.join(known) or 'none'}; or give a path"
        raise TetherError(f"there is no control {ref!r}: {meant}")


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 80 else f"{text[:60]}...{text[-12:]}"
