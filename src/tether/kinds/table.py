"""The table of kinds: the package's own, those of installed packages, and those registered by a program.

Another package adds kinds through the entry point group `tether.kinds`. An entry point names a `Kind`, or a
module-level iterable of them. A package that cannot be loaded gives a warning that names it, and is skipped.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from tether.errors import TetherError
from tether.kinds.kind import Kind

__all__ = ["annotator_names", "find_kind", "guess_kind", "kind_of", "kinds", "register"]

GROUP = "tether.kinds"
OWN = (
    "canny",
    "depth",
    "normal",
    "mlsd",
    "scribble",
    "softedge",
    "lineart_anime",  # before lineart, whose name it contains
    "lineart",
    "seg",
    "openpose",
    "inpaint",
    "ip2p",
    "tile",
    "shuffle",
    "keypoints",
    "recolor",
    "blur",
    "invert",
    "mask",
)
"""The modules of the package's own kinds, each with a `KIND`, in the order in which names are guessed."""


def kinds() -> dict[str, Kind]:
    """Every kind by name: the package's own first, then those of other packages."""
    return dict(_table())


def kind_of(name: str) -> Kind:
    """The kind of a name, or of another name for it.

    Raises:
        TetherError: when the name is unknown.
    """
    table, known = _table(), _find(name)
    if known is None:
        names = [*table, *(alias for kind in table.values() for alias in kind.aliases)]
        close = get_close_matches(name, names, n=1)
        meant = f"did you mean {close[0]}? " if close else ""
        raise TetherError(f"{name!r} is not a known kind of condition: {meant}choose one of {', '.join(table)}")
    return known


def find_kind(name: str | None) -> Kind:
    """The kind of a name; for an unknown one, or None, a kind with all defaults whose maps are resized as "lines".

    For conditions that people name as they like, such as those of a dataset.
    """
    return _find(name or "") or Kind(name or "unknown", resize="lines")


def _find(name: str) -> Kind | None:
    """By name, then by alias: a kind that another package adds under what is an alias here is the one that is meant."""
    table = _table()
    return table.get(name) or next((kind for kind in table.values() if name in kind.aliases), None)


def guess_kind(name: str) -> str | None:
    """The kind of a control from its file or folder name: "control_v11p_sd15_canny.pth" -> "canny"."""
    words = name.lower().replace("_", " ")
    for kind in _table().values():
        if kind.names and re.search(rf"(?<![a-z0-9])({kind.names})(?![a-z0-9])", words):
            return kind.name
    return None


def annotator_names() -> list[str]:
    """The kinds whose maps can be made from an image, sorted."""
    return sorted(kind.name for kind in _table().values() if kind.annotators)


def register(kind: Kind) -> None:
    """Adds a kind for the rest of the process. An installed package uses an entry point instead.

    Raises:
        TetherError: when another kind has its name.
    """
    _add(_table(), kind)


@cache
def _table() -> dict[str, Kind]:
    """The table of this process, made when it is first needed."""
    own = [import_module(f"tether.kinds.{module}").KIND for module in OWN]
    table = {kind.name: kind for kind in own}
    for point in entry_points(group=GROUP):
        try:
            for kind in _loaded(point):
                _add(table, kind)
        except Exception as error:  # whatever a plugin's code raises, the package goes on without it
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            warnings.warn(f"skipped the kind {point.name!r} ({point.value}): {reason}", stacklevel=2)
    return table


def _add(table: dict[str, Kind], kind: Kind) -> None:
    if table.setdefault(kind.name, kind) is not kind:
        raise TetherError(f"there already is a kind of condition {kind.name!r}: choose another name")


def _loaded(point: EntryPoint) -> list[Kind]:
    """The kinds that an entry point names."""
    found = point.load()
    listed = [found] if isinstance(found, Kind) or not isinstance(found, Iterable) else list(found)
    for kind in listed:
        if not isinstance(kind, Kind):
            raise TypeError(f"expected a tether.kinds.Kind, found a {type(kind).__name__}")
    return listed
