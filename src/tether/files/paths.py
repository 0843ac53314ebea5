"""What names a model: a path of this machine, or a name on the hub. Nothing is opened, and nothing heavy imported."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path

from tether.errors import TetherError

__all__ = ["SUFFIXES", "local_path", "name_on_hub"]

SUFFIXES = (".safetensors", ".ckpt", ".pth", ".pt", ".bin")
"""The suffixes of files of tensors."""
NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(?P<file>/[\w./ -]+)?(@(?P<revision>[\w./-]+))?")
MAX_NEIGHBORS = 1000


def local_path(ref: str | Path) -> Path | None:
    """The path that `ref` is, if something is there."""
    try:
        path = Path(ref).expanduser()
        return path if str(ref) and path.exists() else None
    except (OSError, RuntimeError):  # a name too long for a file, or an unknown ~user
        return None


def name_on_hub(ref: str | Path, what: str) -> re.Match[str]:
    """The name on the hub that `ref` is, which is no path here: its groups are `repo`, `file` and `revision`.

    Args:
        ref: a name, or the path of something that is not here.
        what: "base" or "control", for messages.

    Raises:
        TetherError: if it can be no name, or is nearly that of a path here.
    """
    name = NAME.fullmatch(str(ref))
    upward = {".", ".."} & set(str(ref).split("/"))
    if name is None or upward or str(ref).startswith((".", "/", "~")) or (name["file"] or "").endswith("/"):
        missing = _nothing_here(ref)
        more = "" if missing.endswith("?") else ", and it is not a name on the hub"
        raise TetherError(f"no {what} at {ref}: {missing}{more}")
    if _means_a_path(str(ref), name):
        raise TetherError(f"no {what} at {ref}: {_nothing_here(ref)}")
    return name


def _means_a_path(ref: str, name: re.Match[str]) -> bool:
    """Whether a name that could be one on the hub is a path to something that is not here."""
    parts = Path(ref).parts
    if name["file"] is None and name["repo"].endswith(SUFFIXES):
        return True
    return Path(parts[0]).is_dir() or bool(_close(Path(), parts[0], folders=True))


def _nothing_here(ref: str | Path) -> str:
    """That a path does not exist, and what is there that it may mean."""
    try:
        path = Path(ref).expanduser()
        there = path
        while not there.is_dir() and there != there.parent:
            there = there.parent
        missing = path.relative_to(there).parts
        close = _close(there, missing[0], folders=len(missing) > 1) if missing else []
    except (OSError, RuntimeError, ValueError):
        close, there, missing = [], Path(), ()
    if not close:
        return "there is no such file or folder"
    return f"there is no such file or folder; did you mean {Path(there, close[0], *missing[1:])}?"


def _close(folder: Path, name: str, folders: bool) -> list[str]:
    """Names in a folder that are like a name; `folders` for those of folders alone."""
    try:
        names = [path.name for path in folder.iterdir() if not folders or path.is_dir()][:MAX_NEIGHBORS]
    except OSError:
        return []
    stems = {Path(each).stem: each for each in names} | {each: each for each in names}
    return [stems[each] for each in get_close_matches(name, stems, n=1, cutoff=0.8)]
