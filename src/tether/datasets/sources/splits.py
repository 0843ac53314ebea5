"""Splits of a published set: only "train" is trained on, and what that leaves out is counted.

A split is named by a folder, whole or by its beginning (`test/a.png`, `val2017/a.png`), or by the beginning of a
table's name (`test-00000-of-00001.parquet`).
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
    "evaluation": "validation", "holdout": "test", "hold_out": "test", "heldout": "test", "held_out": "test",
}  # fmt: skip
_ANY = "|".join(sorted(_NAMES, key=len, reverse=True))
_BEGINNING = re.compile(rf"({_ANY})(?=[-_.\d]|$)", re.IGNORECASE)
_WORD = re.compile(rf"({_ANY})([-_.]?(\d+|set|split|images?|data|seen|unseen|dev|std|challenge))*", re.IGNORECASE)
"""A folder's name: "val2017" and "test_unseen", but not the class "test_tube"."""


class NoSuchSplit(TetherError):
    """The source does not have the split that was asked for."""


Item = TypeVar("Item", bound=Hashable)


def split_name(word: object) -> str | None:
    """The split that a word names: "val", "val2017" -> "validation"; None for any other word, such as "test_tube"."""
    match = _WORD.fullmatch(word.replace("-", "_")) if isinstance(word, str) else None
    return None if match is None else _NAMES[match[1].casefold()]


def split_of(path: Path, root: Path, *, by_name: bool) -> str | None:
    """The split of a file below a folder: by its folders and, for tables and archives, by its own name."""
    relative = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    folders = relative.parts[:-1]
    whole = (_NAMES.get(part.casefold().replace("-", "_")) for part in folders)  # "train_data/val/a.png" is "val"
    found = next((split for split in (*whole, *map(split_name, folders)) if split), None)
    if found is None and by_name and (match := _BEGINNING.match(path.name.replace("-", "_"))):
        return _NAMES[match[1].casefold()]
    return found


def choose_split(
    items: Sequence[Item], split: Callable[[Item], str | None], wanted: str | None
) -> tuple[list[Item], Counter[str]]:
    """The items of a split, and how many there are of each other split.

    Args:
        items: files, rows, ...
        split: the split of an item, or None.
        wanted: a split's name, or "all"; by default "train" if there is one. Items of no split are read with it where
            no other split is named, as "train" may then be one of many folders of images; without it, they alone are
            read if there are any, and else all.

    Raises:
        NoSuchSplit: when there is no such split.
    """
    found = {item: split(item) for item in items}
    names = {name for name in found.values() if name}
    if wanted == ALL or (wanted is None and "train" not in names and None not in found.values()):
        return list(items), Counter()
    chosen = "train" if wanted is None else split_name(wanted) or wanted
    if chosen not in names and wanted is not None:
        raise NoSuchSplit(f"there is no split {wanted!r}: the source has {_listed(names)}; --split all reads all")
    is_split = wanted is not None or ("train" in names and len(names) > 1)
    read = {chosen} if is_split else {chosen, None}
    kept = [item for item in items if found[item] in read]
    return kept, Counter(name or "none" for name in found.values() if name not in read)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
