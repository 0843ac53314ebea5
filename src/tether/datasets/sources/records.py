"""Records that name their files: Hugging Face's `metadata.jsonl` or `.csv`, the tutorial's `prompt.json`, others."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from tether.datasets.names import (
    CAPTION_NAMES,
    CONDITION_NAMES,
    IMAGE_NAMES,
    NONE,
    Reading,
    captions_of,
    find_names,
    has_image_suffix,
    normal,
    refuse_unused,
)
from tether.datasets.source import Rejected, Sample, Source
from tether.datasets.sources.merged import merge_captions
from tether.datasets.sources.pairs import pair_conditions
from tether.datasets.sources.splits import choose_split, split_name, split_of
from tether.datasets.twins import sizes_of
from tether.errors import TetherError
from tether.files.listing import is_image, visible_files

__all__ = ["LOOKED_AT", "RECORD_FILES", "RecordSource", "file_of", "is_file", "names_images", "record_source"]

RECORD_FILES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv")

LOOKED_AT = 100
"""Records in which unknown keys are looked for."""

Record = dict[str, Any] | str
"""A JSON object, or what is wrong with the record."""


def file_of(folder: Path, name: str) -> Path:
    """The file that a record names, inside the record's folder: a downloaded record must not read any other file.

    Raises:
        Rejected: if the name leads out of the folder.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise Rejected("unreadable", f"{name!r} leads out of the record's folder")
    return folder / name


class RecordSource(Source):
    """Records that name their files. Records of the same image and condition are one sample with several captions.

    Args:
        layout: the kind of record file.
        records: each a JSON object, with the folder its file names are relative to; a string describes a broken record.
        reading: the names that the user gave.
        left_out: what of the source is not read: description -> number.
        root: the folder below which a folder of conditions is looked for.
        named: the image files that any record names, also those of records that are left out.

    Raises:
        TetherError: when a key or folder that the user named is missing, or a key may hold conditions and would not be
            used.
    """

    def __init__(
        self,
        layout: str,
        records: list[tuple[Path, Record]],
        reading: Reading | None = None,
        left_out: Counter[str] | None = None,
        root: Path | None = None,
        named: Collection[Path] = (),
    ) -> None:
        self.layout, self.reading = layout, reading or Reading()
        records, splits = _of_split(records, self.reading)
        self.records = records
        keys = list(dict.fromkeys(key for _, record in records if isinstance(record, dict) for key in record))
        self.image, self.condition = _keys(keys, layout, self.reading)
        self.caption = find_names(keys, CAPTION_NAMES, self.reading.caption_column, "caption")
        self.beside = {} if root is None else self._conditions_beside(root)
        self.named = {*named, *self.beside.values()}
        self.entries = merge_captions(
            (self._place(number), self._captions(record)) for number, (_, record) in enumerate(records)
        )
        self.has_conditions = bool(self.beside) or any(
            isinstance(r, dict) and _first(r, self.condition) for _, r in records
        )
        where = f"folder {self.reading.condition_folder!r}" if self.beside else f"key {(*self.condition, '')[0]!r}"
        self.conditions_from = where if self.has_conditions else ""
        if not self.has_conditions and self.reading.condition_column is None:
            refuse_unused(self._unused(keys), "the records", "--condition-column")
        self.left_out = dict((left_out or Counter()) + splits)

    def _conditions_beside(self, root: Path) -> dict[Path, Path]:
        """The conditions of images in the folder that the user named, found by the images' names."""
        wanted = self.reading.condition_folder
        if wanted is None or self.reading.no_conditions:
            return {}
        self.condition = ()
        names = [(folder, _first(record, self.image)) for folder, record in self.records if isinstance(record, dict)]
        images = [folder / name for folder, name in names if name and is_file(folder, name)]
        leads_out = Path(wanted).is_absolute() or ".." in Path(wanted).parts
        maps = [] if leads_out else [path for path in visible_files(root / wanted) if is_image(path)]
        files = sorted({*images, *maps}, key=lambda path: path.relative_to(root).as_posix())
        return pair_conditions(root, files, Reading(condition_folder=wanted), lambda path: None).conditions

    def leave_out_unnamed(self, images: Iterable[Path], root: Path) -> None:
        """Counts the images below `root` that no record names as left out.

        Raises:
            TetherError: when they look like conditions, and would not be used.
        """
        unnamed = [path for path in images if path not in self.named]
        if not self.has_conditions and not self.reading.no_conditions:
            parts = {part for path in unnamed for part in path.relative_to(root).parts[:-1]}
            refuse_unused({part for part in parts if normal(part) in CONDITION_NAMES}, root, "--condition-folder")
        if unnamed:
            self.left_out = {**self.left_out, "images that no record names": len(unnamed)}
        self.named = set()  # worker processes need no copy

    def _place(self, number: int) -> tuple[Path, str, str | None] | None:
        """What tells the image and condition of a record from those of others."""
        folder, record = self.records[number]
        image = _first(record, self.image) if isinstance(record, dict) else None
        if image is None or isinstance(record, str):
            return None
        return folder, image, _first(record, self.condition)

    def _captions(self, record: Record) -> tuple[str, ...]:
        if isinstance(record, str) or self.reading.captions == "none":
            return ()
        return next((found for key in self.caption if (found := captions_of(record.get(key)))), ())

    def _unused(self, keys: list[str]) -> list[str]:
        """Keys that name image files and mean nothing."""
        known = {*self.image, *self.caption}
        looked_at = [(folder, record) for folder, record in self.records[:LOOKED_AT] if isinstance(record, dict)]
        return [
            key
            for key in keys
            if key not in known and any(is_file(folder, record.get(key)) for folder, record in looked_at)
        ]

    def __len__(self) -> int:
        return len(self.entries)

    def key(self, index: int) -> str:
        number = self.entries[index].number
        place = self._place(number)
        return f"{number:08d}:{'?' if place is None else place[1]}"

    def sample(self, index: int, kind: str | None = None) -> Sample:
        number, captions = self.entries[index]
        folder, record = self.records[number]
        if isinstance(record, str):
            raise Rejected("unreadable", record)
        image, condition = _first(record, self.image), _first(record, self.condition)
        if image is None:
            raise Rejected("unreadable", f"the record has no {self.image[0]!r}")
        path = file_of(folder, image)
        given = file_of(folder, condition) if condition else self.beside.get(path)
        if self.has_conditions and given is None:
            missing = (
                f"no {self.condition[0]!r}" if self.condition else f"no image in {self.reading.condition_folder!r}"
            )
            raise Rejected("condition unreadable", f"the record has {missing}")
        return Sample(self.key(index), path, captions[0] if captions else "", given, captions[1:])

    def file_sizes(self, index: int) -> tuple[int, ...] | None:
        try:
            sample = self.sample(index)
        except Rejected:
            return None
        return sizes_of([sample.image, sample.condition])

    def files(self) -> Iterator[Path]:
        for folder, record in self.records:
            for name in self._names(record):
                try:
                    if name is not None and (path := file_of(folder, name)).is_file():
                        yield path
                except (OSError, ValueError, Rejected):
                    continue
        yield from self.beside.values()

    def listing(self) -> list[Any]:
        beside = [[path.name, sizes_of([path])] for path in self.beside.values()]
        return [*([record, self._sizes(folder, record)] for folder, record in self.records), *beside]

    def _names(self, record: Record) -> list[str | None]:
        return [] if isinstance(record, str) else [_first(record, self.image), _first(record, self.condition)]

    def _sizes(self, folder: Path, record: Record) -> list[int | None]:
        """Bytes of the files that a record names; None for a file that cannot be read."""
        sizes: list[int | None] = []
        for name in self._names(record):
            try:
                sizes.append(None if name is None else file_of(folder, name).stat().st_size)
            except (OSError, ValueError, Rejected):
                sizes.append(None)
        return sizes


def _keys(keys: list[str], layout: str, reading: Reading) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The keys of the image and of the condition."""
    image = find_names(keys, IMAGE_NAMES, reading.image_column, "image")
    condition = find_names(keys, CONDITION_NAMES, reading.condition_column, "condition")
    # fill50k's pair; elsewhere "source" is where an image was found.
    targets = [key for key in image if normal(key) in ("target", "target_image")]
    if not condition and reading.condition_column != NONE and targets and image[0] == targets[0]:
        condition = tuple(key for key in keys if normal(key) in ("source", "source_image"))
    default = "target" if layout == "promptfile" else "file_name"
    return image or (default,), tuple(key for key in condition if key not in image or reading.condition_column)


def _of_split(records: list[tuple[Path, Record]], reading: Reading) -> tuple[list[tuple[Path, Record]], Counter[str]]:
    """The records whose key "split" is the one wanted."""

    def split(index: int) -> str | None:
        record = records[index][1]
        word = record.get("split") if isinstance(record, dict) else None
        return split_name(word) or (word if isinstance(word, str) and word else None)

    if not _name_splits(records):
        return records, Counter()
    kept, others = choose_split(range(len(records)), split, reading.split)
    return [records[i] for i in kept], Counter({f"records of the split {n}": count for n, count in others.items()})


def _name_splits(records: list[tuple[Path, Record]]) -> bool:
    return any(isinstance(record, dict) and split_name(record.get("split")) for _, record in records)


def _first(record: dict[str, Any], keys: tuple[str, ...]) -> str | None:
    return next((record[key] for key in keys if isinstance(record.get(key), str) and record[key]), None)


def is_file(folder: Path, name: Any) -> bool:
    """Whether a value is the name of an image file in a folder."""
    try:
        return has_image_suffix(name) and file_of(folder, name).is_file()
    except (OSError, ValueError, Rejected):
        return False


def names_images(path: Path, reading: Reading) -> bool:
    """Whether the first record of a file, under any name, names an image file."""
    try:
        records = _records(path)
    except TetherError:
        return False
    _, first = records[0] if records else (path, "")
    keys = IMAGE_NAMES if reading.image_column is None else (normal(reading.image_column),)
    return isinstance(first, dict) and any(normal(key) in keys and has_image_suffix(first[key]) for key in first)


def record_source(paths: list[Path], root: Path, reading: Reading, layout: str = "imagefolder") -> RecordSource:
    """A source of the records in files, of the split that is wanted.

    Args:
        paths: JSON lines, JSON lists, CSV or TSV.
        root: the folder below which a split is looked for in the files' paths.
        reading: the names that the user gave.
        layout: the name of the layout.

    Raises:
        TetherError: when a file cannot be read, and as `RecordSource`.
    """
    found = {path: _records(path) for path in paths}
    splits = {path: split_of(path, root, by_name=True) for path in paths}
    kept = paths
    if any(splits.values()) or not any(map(_name_splits, found.values())):
        kept, _ = choose_split(paths, splits.__getitem__, reading.split)
    left_out: Counter[str] = Counter()
    for path in paths:
        if path not in kept:
            left_out[f"records of the split {splits[path] or 'none'}"] += len(found[path])
    named = {
        folder / name
        for records in found.values()
        for folder, record in records
        if isinstance(record, dict)
        for name in record.values()
        if has_image_suffix(name)
    }
    return RecordSource(layout, [record for path in kept for record in found[path]], reading, left_out, root, named)


def _records(path: Path) -> list[tuple[Path, Record]]:
    """The records of a file: JSON objects, one a line or all in one list; or rows of a table."""
    try:
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TetherError(f"cannot read {path}: {error}") from None
    if path.suffix.lower() in (".csv", ".tsv"):
        return [(path.parent, record) for record in _rows(path, text)]
    parsed: list[Record] = []
    if text.lstrip().startswith("["):
        try:
            parsed = [r if isinstance(r, dict) else "the record is not a JSON object" for r in json.loads(text)]
        except (ValueError, RecursionError) as error:
            raise TetherError(f"{path} is not valid JSON: {error}") from None
    else:
        for number, line in enumerate(text.split("\n"), start=1):  # a caption may hold other line separators
            if line.strip():
                parsed.append(_parse(line, f"line {number} of {path.name} is not a JSON object"))
    return [(path.parent, record) for record in parsed]


def _rows(path: Path, text: str) -> list[Record]:
    """The rows of a table with a header."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    header = text.split("\n", 1)[0]
    if delimiter == "," and "," not in header and ";" in header:
        delimiter = ";"
    try:
        rows = _cells(path, text, delimiter, strict=True)
    except csv.Error:  # "red" dress: a closed quote, and more after it
        rows = _cells(path, text, delimiter, strict=False)
    if not rows:
        return []
    names = [name.strip() for name in rows[0]]
    parsed: list[Record] = []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) == len(names):
            parsed.append(dict(zip(names, row, strict=True)))
        elif row:
            parsed.append(f"row {number} of {path.name} has {len(row)} columns instead of {len(names)}")
    return parsed


def _cells(path: Path, text: str, delimiter: str, *, strict: bool) -> list[list[str]]:
    """The cells of a table's rows.

    Raises:
        TetherError: when a quote that is never closed swallows the rest.
        csv.Error: for a quote inside of a cell, if `strict`.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict)
    try:
        return list(reader)
    except csv.Error as error:
        if strict and "unexpected end" not in str(error):
            raise
        raise TetherError(f"{path} is not a table, near its line {reader.line_num}: {error}") from None


def _parse(line: str, fault: str) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return fault
    return record if isinstance(record, dict) else fault
