"""Folders whose images have the same names: one may hold the conditions of the other's images."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from pathlib import Path

from tether.errors import TetherError

__all__ = ["refuse_twins"]

_LEAST_SHARE = 0.8
"""Share of the smaller folder's names that the other one has."""
_MOST = 4
"""A name that more folders have is a running number, as in folders of classes and of clips."""


def refuse_twins(root: Path, files: list[Path], caption_file: Callable[[Path], Path | None]) -> None:
    """Raises a TetherError for two folders with images of the same names, of which one may hold conditions.

    Images of equal names that have captions of their own are different images, as those of folders of classes are;
    unless there are just two such folders side by side, which is how images and their maps are laid out.
    """
    folders: dict[Path, dict[str, Path | None]] = defaultdict(dict)
    for path in files:
        folders[path.parent][path.stem] = caption_file(path)
    holders: dict[Hashable, set[Path]] = defaultdict(set)
    siblings: dict[Path, list[Path]] = defaultdict(list)
    for folder, captions in folders.items():
        siblings[folder.parent].append(folder)
        for name, caption in captions.items():
            holders[name].add(folder)
            holders[caption].add(folder)
    for pair in siblings.values():
        if len(pair) == 2 and root not in pair:
            one, other = (folders[folder].keys() for folder in pair)
            if len(one) > 1 and one == other:
                raise _refused(root, pair)
    for folder, captions in folders.items():
        # By its captions, which are not its own if another folder's images have them too; or else by its names.
        known: list[Hashable] = [caption for caption in captions.values() if caption is not None] or [*captions]
        shared = Counter(
            other for one in known if len(holders[one]) <= _MOST for other in holders[one] if other != folder
        )
        for other, count in shared.items():
            if count > 1 and count >= _LEAST_SHARE * min(len(captions), len(folders[other])):
                raise _refused(root, [folder, other])


def _refused(root: Path, folders: list[Path]) -> TetherError:
    names = " and ".join(repr(folder.relative_to(root).as_posix()) for folder in sorted(folders))
    return TetherError(
        f"the folders {names} of {root} hold images of the same names: give --condition-folder NAME for the one that "
        "holds conditions, or --condition-folder none if both hold images"
    )
