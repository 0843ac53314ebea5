"""Which images of a folder are the conditions of which others.

    a.png, a.condition.png            a mark in the name: any of `names.CONDITION_NAMES`, after ".", "_" or "-"
    images/a.png, conditions/a.png    a folder of such a name; the images beside it, or in it and its siblings
    target/a.png, source/a.png        fill50k's folders

Images that look like conditions under other names are refused: annotated again, or trained on as images, they would
spoil a control without a word.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tether.datasets.names import (
    CONDITION_NAMES,
    IMAGE_NAMES,
    IMAGE_SUFFIXES,
    NONE,
    Reading,
    normal,
    refuse_unused,
    unmarked,
)
from tether.datasets.sources.same_names import refuse_twins
from tether.errors import TetherError

__all__ = ["Pairs", "condition_depth", "pair_conditions"]

_LEAST_SHARE = 0.5
"""Share of the images beside which a file of an unknown mark is taken for a condition."""


CaptionFile = Callable[[Path], Path | None]
"""An image -> the file of its caption, if there is one."""


@dataclass
class Pairs:
    """What `pair_conditions` found.

    Attributes:
        images: the images, in order.
        conditions: image -> its condition.
        unpaired: conditions whose image is missing.
        ignored: conditions that are left out because the user wants none.
        others: further images of the names of images, which are left out.
        found_by: what named the conditions, in words.
    """

    images: list[Path]
    conditions: dict[Path, Path] = field(default_factory=dict)
    unpaired: list[Path] = field(default_factory=list)
    ignored: int = 0
    others: int = 0
    found_by: str = ""


def pair_conditions(root: Path, files: list[Path], reading: Reading, caption_file: CaptionFile) -> Pairs:
    """Pairs the images of a folder with their conditions.

    Args:
        root: the folder.
        files: its image files, in order.
        reading: the names that the user gave.
        caption_file: the file of an image's caption.

    Raises:
        TetherError: when conditions that the user named are missing, images look like conditions and would not be
            used, or it is not clear which of several images a condition or caption belongs to.
    """
    pairs = _pairs(root, files, reading, caption_file)
    if pairs.conditions:
        stems = {(path.parent, path.stem) for path in pairs.conditions}
        alone = [path for path in pairs.images if path not in pairs.conditions]
        _leave_out(pairs, [path for path in alone if _looks_like_one(root, path, reading, stems)])
    if not reading.no_conditions:
        _leave_out(pairs, _other_formats(root, pairs.images, reading, caption_file))
    return pairs


def _pairs(root: Path, files: list[Path], reading: Reading, caption_file: CaptionFile) -> Pairs:
    found = None
    if reading.condition_folder not in (None, NONE) or (
        reading.condition_folder is None and reading.condition_column in (None, NONE)
    ):
        found = _by_folder(root, files, reading, caption_file)
    if found is None and reading.condition_folder is None and not _has_mark(files, reading):
        found = _by_folder_of_name(root, files, reading, caption_file)
    found = found or _by_mark(files, reading)
    if found is not None and reading.condition_column != NONE:
        return found
    if found is not None:
        return Pairs(found.images, ignored=len(found.conditions) + len(found.unpaired), others=found.others)
    if reading.condition_folder is None and len({path.parent for path in files}) > 1:
        refuse_twins(root, files, caption_file)
    marked = _unknown_marks(files)
    if reading.condition_column is None:
        refuse_unused(marked, root, "--condition-column")
    left = set().union(*marked.values())
    return Pairs([path for path in files if path not in left], ignored=len(left))


def _has_mark(files: list[Path], reading: Reading) -> bool:
    """Whether a file has the mark or ending that the user named, if any."""
    return reading.condition_column in (None, NONE) or bool(_marked(files, reading.condition_column))


def _by_folder_of_name(root: Path, files: list[Path], reading: Reading, caption_file: CaptionFile) -> Pairs | None:
    """Pairs by the folder that has the name of a mark which no file has; None when there is none."""
    wanted = normal(reading.condition_column or "")
    folders = sorted({path.relative_to(root).parts[0] for path in files if path.parent != root})
    name = next((folder for folder in folders if normal(folder) == wanted), None)
    return None if name is None else _by_folder(root, files, replace(reading, condition_folder=name), caption_file)


def _leave_out(pairs: Pairs, others: Iterable[Path]) -> None:
    left_out = {*others}
    pairs.images = [path for path in pairs.images if path not in left_out]
    pairs.others += len(left_out)


def _looks_like_one(root: Path, path: Path, reading: Reading, stems: set[tuple[Path, str]]) -> bool:
    """Whether a file looks like a condition; `stems` are the images that have one."""
    if (path.parent, unmarked(path.stem, CONDITION_NAMES)) in stems:
        return True
    return reading.condition_folder != NONE and condition_depth(root, path, None) is not None


def _other_formats(root: Path, images: list[Path], reading: Reading, caption_file: CaptionFile) -> list[Path]:
    """Of images that differ in their format alone, all but those of the format that the user named.

    Raises:
        TetherError: when the user named none, and many images have such a twin: they may be conditions.
    """
    alike: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in images:
        alike[path.parent, path.stem].append(path)
    twins = [
        paths
        for paths in alike.values()
        if len({path.suffix.lower() for path in paths}) > 1
        and len({caption_file(path) for path in paths} - {None}) < len(paths)
    ]
    if len(twins) < _LEAST_SHARE * len(alike):
        return []
    others: list[Path] = []
    for paths in twins:
        kept = [path for path in paths if path.suffix[1:].lower() == _format(reading.image_column)]
        if not kept and _format(reading.image_column) is not None:
            kept = paths[:1]
        if not kept:
            names = " and ".join(path.relative_to(root).as_posix() for path in paths)
            one, other = (path.suffix[1:].lower() for path in paths[:2])
            raise TetherError(
                f"{root}: {names} are images of one name: give --condition-column {other} if the .{other} files are "
                f"conditions, or --image-column {one} to leave them out"
            )
        others += [path for path in paths if path not in kept]
    return others


def _format(name: str | None) -> str | None:
    """The ending of image files that the user named; None for any other name."""
    ending = None if name is None else name.lower().lstrip(".")
    return ending if ending in IMAGE_SUFFIXES else None


def _marked(files: list[Path], given: str | None) -> dict[Path, str]:
    """The files that a mark, or an ending that the user named, makes conditions, with the names of their images."""
    if (ending := _format(given)) is not None:  # a.jpg, a.png
        return {path: path.stem for path in files if path.suffix[1:].lower() == ending}
    table = CONDITION_NAMES if given in (None, NONE) else (normal(given),)
    return {path: base for path in files if (base := unmarked(path.stem, table)) is not None}


def _by_mark(files: list[Path], reading: Reading) -> Pairs | None:
    """Pairs by marks in the files' names; None when there are none."""
    given = reading.condition_column
    image_table = IMAGE_NAMES if reading.image_column is None else (normal(reading.image_column),)
    bare = _marked(files, given)
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


def _by_folder(root: Path, files: list[Path], reading: Reading, caption_file: CaptionFile) -> Pairs | None:
    """Pairs by a folder of conditions; None when there is none."""
    given = reading.condition_folder
    depths = {path: depth for path in files if (depth := condition_depth(root, path, given)) is not None}
    if not depths:
        if given is not None:
            raise TetherError(f"{root} has no folder {given!r} with images: give the folder's path below {root}")
        return None
    images = [path for path in files if path not in depths]
    places = _places(root, images, {*depths.values()})
    conditions: dict[Path, Path] = {}
    unpaired: list[Path] = []
    others: set[Path] = set()
    for path, depth in depths.items():
        parts = _stems(root, path)
        alike = places.get((depth, parts[:depth] + parts[depth + 1 :]), [])
        image = _image_of(root, path, depth, alike, reading, caption_file)
        others.update(alike)
        if image is None:
            unpaired.append(path)
        elif image not in conditions:
            conditions[image] = path
        else:
            unpaired.append(path)
            _refuse_two(root, conditions[image], path, reading)
    folder = next(iter(depths)).relative_to(root).parts[next(iter(depths.values()))]
    if not conditions:
        if reading.condition_column == NONE:
            return None
        raise TetherError(
            f"the images in the folder {folder!r} of {root} look like conditions, and no image has the name of one: "
            "give --condition-folder none if they are images"
        )
    pairs = Pairs(images, conditions, unpaired, found_by=f"folder {folder!r}")
    _leave_out(pairs, others - conditions.keys())
    return pairs


def _places(root: Path, images: list[Path], depths: set[int]) -> dict[tuple[int, tuple[str, ...]], list[Path]]:
    """The images by their paths, whole or without the folder at one of `depths`."""
    places: dict[tuple[int, tuple[str, ...]], list[Path]] = defaultdict(list)
    for path in images:
        parts = _stems(root, path)
        for depth in depths:
            places[depth, parts].append(path)
            if len(parts) > depth + 1:
                places[depth, parts[:depth] + parts[depth + 1 :]].append(path)
    return places


def _image_of(
    root: Path, condition: Path, depth: int, alike: list[Path], reading: Reading, caption_file: CaptionFile
) -> Path | None:
    """The one of images of a condition's name that it belongs to: what tells it from the others, the surest first.

    Raises:
        TetherError: when nothing does.
    """
    signs: list[Callable[[Path], bool]] = [
        lambda path: path.suffix[1:].lower() == _format(reading.image_column),
        lambda path: condition_depth(root, path, None) is None,
        lambda path: normal(path.relative_to(root).parts[depth]) in IMAGE_NAMES,
        lambda path: caption_file(path) is not None,
        lambda path: len(path.relative_to(root).parts) < len(condition.relative_to(root).parts),
    ]
    left = alike
    for sign in signs:
        if len(left) > 1:
            left = [path for path in left if sign(path)] or left
    if len(left) > 1:
        names = " and ".join(_relative(root, path) for path in left)
        raise TetherError(
            f"{root}: {names} have the name of the condition {_relative(root, condition)}: call the folder of the "
            "images 'images', or move the others away"
        )
    return left[0] if left else None


def _refuse_two(root: Path, one: Path, other: Path, reading: Reading) -> None:
    """Raises a TetherError for two conditions of an image that are in two folders."""
    if one.parent != other.parent and reading.condition_column != NONE:
        names = " and ".join(_relative(root, path.parent) for path in (one, other))
        raise TetherError(f"{root}: {names} hold conditions of the same images: give --condition-folder NAME")


def condition_depth(root: Path, path: Path, given: str | None) -> int | None:
    """Which part of a file's path below `root` is the folder of conditions."""
    parts = path.relative_to(root).parts[:-1]
    if given is not None:
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


def _relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _stems(root: Path, path: Path) -> tuple[str, ...]:
    return path.relative_to(root).with_suffix("").parts


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
