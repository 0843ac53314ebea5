"""Which images of a folder are the conditions of which others.

    a.png, a.condition.png            a mark in the name: any of `names.CONDITION_NAMES`, after ".", "_" or "-"
    images/a.png, conditions/a.png    a folder of such a name; the images beside it, or in it and its siblings
    target/a.png, source/a.png        fill50k's folders

Images that look like conditions under other names are refused: annotated again, or trained on as images, they would
spoil a control without a word.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tether.datasets.names import (
    CONDITION_NAMES,
    IMAGE_NAMES,
    NONE,
    Reading,
    normal,
    refuse_unused,
    unmarked,
)
from tether.errors import TetherError

__all__ = ["Pairs", "pair_conditions"]

_LEAST_SHARE = 0.5
"""Share of the images beside which a file of an unknown mark is taken for a condition."""


@dataclass
class Pairs:
    """What `pair_conditions` found.

    Attributes:
        images: the images, in order.
        conditions: image -> its condition.
        unpaired: conditions whose image is missing.
        ignored: conditions that are left out because the user wants none.
        found_by: what named the conditions, in words.
    """

    images: list[Path]
    conditions: dict[Path, Path] = field(default_factory=dict)
    unpaired: list[Path] = field(default_factory=list)
    ignored: int = 0
    found_by: str = ""


def pair_conditions(root: Path, files: list[Path], reading: Reading, has_caption: Callable[[Path], bool]) -> Pairs:
    """Pairs the images of a folder with their conditions.

    Args:
        root: the folder.
        files: its image files, in order.
        reading: the names that the user gave.
        has_caption: whether an image has a caption file.

    Raises:
        TetherError: when conditions that the user named are missing, or images look like conditions and would not be
            used.
    """
    found = None if reading.condition_folder == NONE else _by_folder(root, files, reading)
    found = found or _by_mark(files, reading)
    if found is not None and reading.condition_column != NONE:
        return found
    if found is not None:
        return Pairs(found.images, ignored=len(found.conditions) + len(found.unpaired))
    if reading.condition_folder is None:
        _refuse_twins(root, files, has_caption)
    marked = _unknown_marks(files)
    if reading.condition_column is None:
        refuse_unused(marked, root, "--condition-column")
    left = set().union(*marked.values())
    return Pairs([path for path in files if path not in left], ignored=len(left))


def _by_mark(files: list[Path], reading: Reading) -> Pairs | None:
    """Pairs by marks in the files' names; None when there are none."""
    given = reading.condition_column
    table = CONDITION_NAMES if given in (None, NONE) else (normal(given),)
    image_table = IMAGE_NAMES if reading.image_column is None else (normal(reading.image_column),)
    bare = {path: base for path in files if (base := unmarked(path.stem, table)) is not None}
    places: dict[tuple[Path, str], Path] = {}
    for path in reversed([path for path in files if path not in bare]):
        marked = unmarked(path.stem, image_table)
        if marked is not None:
            places.setdefault((path.parent, marked), path)
        places[path.parent, path.stem] = path
    conditions = {places[path.parent, base]: path for path, base in bare.items() if (path.parent, base) in places}
    paired = set(conditions.values())
    # "air_control.png" without an "air.png" is an image like any other; "a.control.png" is not.
    lone = [path for path in bare if path not in paired and (given not in (None, NONE) or "." in path.stem)]
    if not conditions and not lone:
        if given not in (None, NONE):
            raise TetherError(f"no image has a file marked {given!r} beside it: expected names as in a.{given}.png")
        return None
    kept = [path for path in files if path not in paired and path not in lone]
    return Pairs(kept, conditions, lone, found_by="by the names of files")


def _by_folder(root: Path, files: list[Path], reading: Reading) -> Pairs | None:
    """Pairs by a folder of conditions; None when there is none."""
    given = reading.condition_folder
    depths = {path: depth for path in files if (depth := _condition_depth(root, path, files, given)) is not None}
    if not depths:
        if given not in (None, NONE):
            raise TetherError(f"{root} has no folder {given!r} with images: give the folder's path below {root}")
        return None
    places: dict[tuple[int, tuple[str, ...]], Path] = {}
    images = [path for path in files if path not in depths]
    for path in images:
        parts = _stems(root, path)
        for depth in set(depths.values()):
            places.setdefault((depth, parts), path)
            if len(parts) > depth + 1:
                places.setdefault((depth, parts[:depth] + parts[depth + 1 :]), path)
    conditions, unpaired = {}, []
    for path, depth in depths.items():
        parts = _stems(root, path)
        image = places.get((depth, parts[:depth] + parts[depth + 1 :]))
        if image is None or image in conditions:
            unpaired.append(path)
        else:
            conditions[image] = path
    folder = next(iter(depths)).relative_to(root).parts[next(iter(depths.values()))]
    if not conditions and reading.condition_column == NONE:
        return None
    if not conditions:
        raise TetherError(
            f"the images in the folder {folder!r} of {root} look like conditions, and no image has the name of one: "
            "give --condition-folder none if they are images"
        )
    return Pairs(images, conditions, unpaired, found_by=f"folder {folder!r}")


def _condition_depth(root: Path, path: Path, files: list[Path], given: str | None) -> int | None:
    """Which part of a file's path below `root` is the folder of conditions."""
    parts = path.relative_to(root).parts[:-1]
    if given not in (None, NONE):
        wanted = Path(given).parts
        return len(wanted) - 1 if parts[: len(wanted)] == wanted else None
    for depth, part in enumerate(parts):
        if normal(part) in CONDITION_NAMES:
            return depth
        if normal(part) == "source" and any(
            (root.joinpath(*parts[:depth], name)).is_dir() for name in ("target", "targets")
        ):
            return depth
    return None


def _stems(root: Path, path: Path) -> tuple[str, ...]:
    return path.relative_to(root).with_suffix("").parts


def _refuse_twins(root: Path, files: list[Path], has_caption: Callable[[Path], bool]) -> None:
    """Raises a TetherError for two folders with images of the same names, of which one may hold conditions."""
    folders: dict[Path, dict[str, Path]] = defaultdict(dict)
    for path in files:
        folders[path.parent][path.stem] = path
    siblings: dict[Path, list[Path]] = defaultdict(list)
    for folder in folders:
        siblings[folder.parent].append(folder)
    for pair in siblings.values():
        if len(pair) != 2 or root in pair:
            continue
        one, other = (folders[folder] for folder in pair)
        shared = one.keys() & other.keys()
        if len(shared) < 2 or len(shared) < 0.8 * min(len(one), len(other)):
            continue
        captioned = [any(has_caption(path) for path in folder.values()) for folder in (one, other)]
        if captioned[0] != captioned[1] or one.keys() == other.keys():
            names = " and ".join(repr(folder.relative_to(root).as_posix()) for folder in sorted(pair))
            raise TetherError(
                f"the folders {names} of {root} hold images of the same names: give --condition-folder NAME for the "
                "one that holds conditions, or --condition-folder none if both hold images"
            )


def _unknown_marks(files: list[Path]) -> dict[str, list[Path]]:
    """Files by marks that so many images have beside them that they may be conditions: a_edge.png beside a.png."""
    stems = {(path.parent, path.stem) for path in files}
    marks: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        for index, letter in enumerate(path.stem):
            tail = path.stem[index + 1 :]
            if letter in "._-" and sum(c.isalpha() for c in tail) >= 2 and (path.parent, path.stem[:index]) in stems:
                marks[tail].append(path)
    return {
        mark: found for mark, found in marks.items() if len(found) >= max(2, _LEAST_SHARE * (len(stems) - len(found)))
    }
