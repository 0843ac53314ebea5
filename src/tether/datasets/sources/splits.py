"""Splits of a published set: only "train" is trained on, and what that leaves out is counted.

A split is named by a folder (`test/a.png`) or by the beginning of a table's name (`test-00000-of-00001.parquet`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from tether.errors import TetherError

__all__ = ["NoSuchSplit", "choose_split", "split_name", "split_of"]

ALL = "all"
_NAMES = {
    "train": "train", "training": "train",
    "test": "test", "testing": "test",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation", "eval": "validation",
}  # fmt: skip
_BEGINNING = re.compile(rf"({'|'.join(sorted(_NAMES, key=len, reverse=True))})(?=[-_.\d]|$)", re.IGNORECASE)


class NoSuchSplit(TetherError):
    """The source does not have the split that was asked for."""


Item = TypeVar("Item", bound=Hashable)


def split_name(word: object) -> str | None:
    """The split that a word names: "val" -> "validation"; None for any other word."""
    return _NAMES.get(word.casefold()) if isinstance(word, str) else None


def split_of(path: Path, root: Path, *, by_name: bool) -> str | None:
    """The split of a file below a folder: by its folders and, for tables and archives, by its own name."""
    relative = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    found = next((split for part in relative.parts[:-1] if (split := split_name(part))), None)
    if found is None and by_name and (match := _BEGINNING.match(path.name)):
        return _NAMES[match[1].casefold()]
    return found


def choose_split(
    items: Sequence[Item], split: Callable[[Item], str | None], wanted: str | None
) -> tuple[list[Item], Counter[str]]:
    """The items of a split, and how many there are of each other split.

    Args:
        items: files, rows, ...
        split: the split of an item, or None.
        wanted: a split's name, or "all"; by default "train" if any item is of it, else those of no split if there are
            any, and else all.

    Raises:
        NoSuchSplit: when there is no such split.
    """
    found = {item: split(item) for item in items}
    names = {name for name in found.values() if name}
    if wanted == ALL or (wanted is None and "train" not in names and None not in found.values()):
        return list(items), Counter()
    chosen = "train" if wanted is None else split_name(wanted)
    if chosen not in names and wanted is not None:
        raise NoSuchSplit(f"there is no split {wanted!r}: the source has {_listed(names)}; --split all reads all")
    wanted_here = {chosen, None} if wanted is None else {chosen}
    kept = [item for item in items if found[item] in wanted_here]
    return kept, Counter(name for name in found.values() if name and name != chosen)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
