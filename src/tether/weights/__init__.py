"""The weights that ship in the package: a folder for the base and one for each control, with model cards."""

from __future__ import annotations

from pathlib import Path

from tether.errors import TetherError

__all__ = ["shipped", "shipped_controls"]

FOLDER = Path(__file__).parent


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
    return sorted(path.name.removeprefix("control-") for path in FOLDER.glob("control-*") if path.is_dir())
