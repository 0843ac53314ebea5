"""The weights that ship in the package: a folder for the base, one for each control, and the judge that
`tether evaluate` asks; with model cards.

The folder `control-union` is one control for several kinds. A kind that has a folder of its own is opened from that.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from tether.errors import TetherError

__all__ = ["SHIPPED_BASE", "shipped", "shipped_control", "shipped_controls", "split_kind"]

SHIPPED_BASE = "tether"
"""The reference of the base that ships."""
FOLDER = Path(__file__).parent
UNION = "union"
_KIND = re.compile(r"(.{2,}):([A-Za-z0-9_-]+)")
"""A control with the kind that is wanted of it: "runs/union:depth". A single letter before the colon is a drive."""


def shipped(name: str) -> Path:
    """The folder of shipped weights: "base", or "control-KIND" for a control.

    Raises:
        TetherError: if this installation has no such weights.
    """
    folder = FOLDER / name
    if not folder.is_dir():
        raise TetherError(f"this installation ships no {name} (looked in {FOLDER})")
    return folder


def shipped_controls() -> list[str]:
    """The kinds of the controls that ship in the package, sorted."""
    return sorted({*_own(), *_in_union()})


def shipped_control(name: str) -> tuple[Path, str | None] | None:
    """Where a shipped control is.

    Args:
        name: a kind, "canny"; the control for several kinds, "union"; or one of its kinds, "union:depth".

    Returns:
        Its folder, and its kind; None for "union" alone. None where no control of this name ships.
    """
    if name in _own():
        return FOLDER / f"control-{name}", name
    union, sep, kind = name.partition(":")
    if union == UNION and (not sep or kind in _in_union()) and _in_union():
        return FOLDER / f"control-{UNION}", kind or None
    return (FOLDER / f"control-{UNION}", name) if name in _in_union() else None


def split_kind(ref: str | Path) -> tuple[str, str | None]:
    """A reference to a control, and the kind that it names after a colon: "runs/union:depth"; None if it names none.

    An existing path has no kind after it.
    """
    match = _KIND.fullmatch(str(ref))
    try:
        named = match is not None and not Path(ref).exists()
    except OSError:  # a name that is too long, say
        named = False
    return (match[1], match[2]) if match is not None and named else (str(ref), None)


def _own() -> list[str]:
    """The kinds that have a folder of their own."""
    names = (path.name.removeprefix("control-") for path in FOLDER.glob("control-*") if path.is_dir())
    return [name for name in names if name != UNION]


def _in_union() -> list[str]:
    """The kinds of the shipped union; none where none ships."""
    try:
        return list(json.loads((FOLDER / f"control-{UNION}" / "config.json").read_text())["kinds"])
    except FileNotFoundError:
        return []
