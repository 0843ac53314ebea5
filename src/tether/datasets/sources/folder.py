"""A folder of images with their captions beside them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tether.datasets.names import IMAGE_SUFFIXES, NONE, UNREAD_SUFFIXES, Reading, caption_values, captions_of
from tether.datasets.shards import decode_caption
from tether.datasets.source import Rejected, Sample, Source
from tether.datasets.sources.pairs import condition_depth, pair_conditions
from tether.datasets.sources.splits import choose_split, split_of
from tether.datasets.twins import sizes_of
from tether.errors import TetherError
from tether.files.hashing import hash_file
from tether.files.listing import is_image, visible_files

__all__ = ["FolderSource"]

_CAPTIONS = ("txt", "caption", "json")
_CAPTION_FOLDERS = ("captions", "caption", "texts", "text", "prompts")


class FolderSource(Source):
    """Images in a folder and below it, with their captions beside them: `a.txt`, `a.caption` or `a.json`.

    The condition of `a.jpg` is `a.condition.png` beside it, or an image of its name in a folder of conditions
    (see `tether.datasets.sources.pairs`). Captions may be in a folder `captions` too.
    """

    layout = "folder"

    def __init__(self, folder: Path, reading: Reading | None = None) -> None:
        self.folder, self.reading = folder, reading or Reading()
        files = sorted(visible_files(folder), key=lambda path: path.relative_to(folder).as_posix())
        self._caption_folders = _caption_folders(files, folder)
        images = [path for path in files if is_image(path)]
        split = {path: split_of(path, folder, by_name=False) for path in images}
        shared = {path for path in images if split[path] is None and self._is_condition(path)}
        chosen, splits = choose_split(
            [path for path in images if path not in shared], split.__getitem__, self.reading.split
        )
        shared.update(chosen)
        images = [path for path in images if path in shared]
        pairs = pair_conditions(folder, images, self.reading, self._caption_file)
        self.images, self.conditions = pairs.images, pairs.conditions
        self.has_conditions = bool(self.conditions)
        self.conditions_from = pairs.found_by
        self._unpaired = pairs.unpaired
        self._check_caption_column()
        left_out = Counter({f"images of the split {name}": count for name, count in splits.items()})
        left_out |= Counter(f".{path.suffix[1:].lower()} files, which are not read" for path in files if _unread(path))
        if self._unpaired:
            left_out["conditions without an image"] = len(self._unpaired)
        if pairs.others:
            left_out["other images of the same names"] = pairs.others
        if pairs.ignored:
            left_out["conditions, by request"] = pairs.ignored
        self.left_out = dict(left_out)

    def __len__(self) -> int:
        return len(self.images)

    def key(self, index: int) -> str:
        return self._name(self.images[index])

    def sample(self, index: int, kind: str | None = None) -> Sample:
        path = self.images[index]
        captions = self._captions(path)
        condition = self.conditions.get(path)
        if self.has_conditions and condition is None:
            raise Rejected("condition unreadable", f"{path.stem}.condition.png is missing")
        return Sample(self.key(index), path, captions[0] if captions else "", condition, captions[1:])

    def _captions(self, path: Path) -> tuple[str, ...]:
        """All captions of an image.

        Raises:
            Rejected: if they cannot be read.
        """
        file = None if self.reading.captions == "none" else self._caption_file(path)
        if file is None:
            return ()
        try:
            data = file.read_bytes()
        except OSError as error:
            raise Rejected("unreadable", f"cannot read {file}: {error.strerror}") from None
        if file.suffix.lower() != ".json":
            return (decode_caption(data),)
        try:
            record = json.loads(data)
        except (ValueError, RecursionError):
            raise Rejected("unreadable", f"{file.name} is not valid JSON") from None
        if not isinstance(record, dict):
            return captions_of(record)
        wanted = self.reading.caption_column
        return caption_values(record) if wanted is None else captions_of(record.get(wanted))

    def _is_condition(self, path: Path) -> bool:
        """Whether an image is in a folder of conditions, which may be those of all splits: train/, val/, control/."""
        given = self.reading.condition_folder
        return given != NONE and condition_depth(self.folder, path, given) is not None

    def _check_caption_column(self) -> None:
        """Raises a TetherError when no image has a caption of the name that the user gave."""
        column = self.reading.caption_column
        if column is None or self.reading.captions == "none" or not self.images:
            return
        if not any(_has_key(file, column) for path in self.images if (file := self._caption_file(path))):
            raise TetherError(
                f"no image has a caption {column!r}: expected a file as a.{column}, or that key in a.json, beside a.png"
            )

    def _caption_file(self, path: Path) -> Path | None:
        return next((file for file in self._caption_places(path) if file.is_file()), None)

    def _caption_places(self, path: Path) -> Iterator[Path]:
        column = self.reading.caption_column
        endings = [column.lstrip("."), "json"] if column else [*_CAPTIONS, f"{path.suffix[1:]}.txt"]
        inner = path.parent.relative_to(self.folder).parts
        places = [path.parent]
        for depth in range(len(inner) + 1):  # images/a.png, captions/a.txt; a.png, captions/a.txt
            for name in self._caption_folders.get(inner[:depth], ()):
                folder = self.folder.joinpath(*inner[:depth], name)
                places += [folder.joinpath(*inner[depth + 1 :]), folder.joinpath(*inner[depth:])]
        yield from (place / f"{path.stem}.{ending}" for place in places for ending in endings)

    def file_sizes(self, index: int) -> tuple[int, ...] | None:
        path = self.images[index]
        return sizes_of([path, self.conditions.get(path)])

    def files(self) -> Iterator[Path]:
        yield from self.images
        yield from self._condition_files()

    def _condition_files(self) -> list[Path]:
        return sorted({*self.conditions.values(), *self._unpaired}, key=self._name)

    def listing(self) -> list[Any]:
        files = [*self.images, *self._condition_files()]
        captions = [file for path in self.images if (file := self._caption_file(path))]
        return [
            *([self._name(path), path.stat().st_size] for path in files),
            *([self._name(path), _hash_or_none(path)] for path in captions),
        ]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def _has_key(file: Path, column: str) -> bool:
    """Whether a caption file is of the kind that the user named, or a JSON file with such a key."""
    if file.suffix.lower() != ".json":
        return True
    try:
        record = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and column in record


def _hash_or_none(path: Path) -> str | None:
    try:
        return hash_file(path)
    except OSError:
        return None


def _caption_folders(files: Iterable[Path], root: Path) -> dict[tuple[str, ...], list[str]]:
    """Names of folders of captions, by the path of the folder that they are in, in the order of the table."""
    found: dict[tuple[str, ...], set[str]] = {}
    texts = (path for path in files if path.suffix[1:].lower() not in IMAGE_SUFFIXES)
    for parts in {path.parent.relative_to(root).parts for path in texts}:
        for depth, part in enumerate(parts):
            if part in _CAPTION_FOLDERS:
                found.setdefault(parts[:depth], set()).add(part)
    return {place: sorted(names, key=_CAPTION_FOLDERS.index) for place, names in found.items()}


def _unread(path: Path) -> bool:
    return path.suffix[1:].lower() in UNREAD_SUFFIXES
