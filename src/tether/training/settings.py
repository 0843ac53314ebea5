"""How settings are read: their former names, what a misspelled one may mean, and values that have several forms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from tether.errors import TetherError

__all__ = ["current_names", "plain", "read_resolution", "suggestion"]

_FORMER_NAMES = {
    "empty_prompts": "prompt_dropout",
    "watch_every": "validation_every",
    "watch_pictures": "validation_images",
    "watch_steps": "validation_steps",
    "watch_guidance": "validation_guidance",
    "explosion": "divergence_factor",
}
"""Former name of a setting -> its name; both are read, in files and on the command line."""


def current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings under their current names.

    Raises:
        TetherError: when a setting is given under its former name and its name.
    """
    renamed: dict[str, Any] = {}
    for name, value in settings.items():
        current = _FORMER_NAMES.get(name, name)
        if current in renamed:
            raise TetherError(f"{name} and {current} are the same training setting: give one of them")
        renamed[current] = value
    return renamed


def read_resolution(value: Any) -> int | str:
    """A side in pixels, or "WIDTHxHEIGHT", of a number, a text or two numbers.

    Raises:
        ValueError: for anything else, and for sides below 8.
    """
    sides = value if isinstance(value, list | tuple) else re.split("[x×]", str(value).strip().lower())
    whole = [side for side in sides if str(side).strip().isascii() and str(side).strip().isdigit()]
    if isinstance(value, bool) or len(whole) != len(sides) or len(sides) not in (1, 2):
        raise ValueError("give a side in pixels, or WIDTHxHEIGHT, such as 768x512")
    width, height = int(sides[0]), int(sides[-1])
    if min(width, height) < 8:
        raise ValueError("sides must be 8 pixels or more")
    return width if width == height else f"{width}x{height}"


def suggestion(name: str, known: Mapping[str, Any]) -> str:
    """What a misspelled name may mean, or all names."""
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"the settings are {', '.join(known)}"


def plain(default: Any) -> Any:
    """A default as YAML has it."""
    return list(default) if isinstance(default, tuple) else default
