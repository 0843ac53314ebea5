"""JSON records that name their files: Hugging Face's `metadata.jsonl` and the tutorial's `prompt.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tether.datasets.shards import CONDITION_NAMES, caption_of
from tether.datasets.source import Rejected, Sample, Source
from tether.errors import TetherError

__all__ = ["CONDITION_KEYS", "RecordSource", "file_of", "metadata", "promptfile"]

CONDITION_KEYS = tuple(key for name in CONDITION_NAMES for key in (name, f"{name}_file_name"))

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
    """Records that name their files.

    Args:
        layout: the kind of record file.
        records: each a JSON object, with the folder its file names are relative to; a string describes a broken record.
        image, condition: keys under which a record names its image and its condition, if it has one.
    """

    def __init__(
        self, layout: str, records: list[tuple[Path, Record]], image: tuple[str, ...], condition: tuple[str, ...]
    ) -> None:
        self.layout, self.records, self.image, self.condition = layout, records, image, condition
        self.has_conditions = any(isinstance(r, dict) and _first(r, condition) for _, r in records)

    def __len__(self) -> int:
        return len(self.records)

    def key(self, index: int) -> str:
        record = self.records[index][1]
        named = _first(record, self.image) if isinstance(record, dict) else None
        return f"{index:08d}:{named or '?'}"

    def sample(self, index: int, kind: str | None = None) -> Sample:
        folder, record = self.records[index]
        if isinstance(record, str):
            raise Rejected("unreadable", record)
        image, condition = _first(record, self.image), _first(record, self.condition)
        if image is None:
            raise Rejected("unreadable", f"the record has no {self.image[0]!r}")
        if self.has_conditions and condition is None:
            raise Rejected("condition unreadable", f"the record has no {self.condition[0]!r}")
        given = file_of(folder, condition) if condition else None
        return Sample(self.key(index), file_of(folder, image), caption_of(record), given)

    def listing(self) -> list[Any]:
        return [[record, self._sizes(folder, record)] for folder, record in self.records]

    def _sizes(self, folder: Path, record: Record) -> list[int | None]:
        """Bytes of the files that a record names; None for a file that cannot be read."""
        if isinstance(record, str):
            return []
        sizes: list[int | None] = []
        for name in (_first(record, self.image), _first(record, self.condition)):
            try:
                sizes.append(None if name is None else file_of(folder, name).stat().st_size)
            except (OSError, ValueError, Rejected):
                sizes.append(None)
        return sizes


def _first(record: dict[str, Any], keys: tuple[str, ...]) -> str | None:
    return next((record[key] for key in keys if isinstance(record.get(key), str) and record[key]), None)


def promptfile(path: Path) -> RecordSource:
    """The tutorial's fill50k: `prompt.json`, lines of {"source": condition, "target": image, "prompt": caption}."""
    return RecordSource("promptfile", _records(path), ("target",), ("source",))


def metadata(paths: list[Path]) -> RecordSource:
    """Hugging Face's imagefolder: `metadata.jsonl`, lines of {"file_name": image, "text": caption}."""
    records = [record for path in paths for record in _records(path)]
    return RecordSource("imagefolder", records, ("file_name",), CONDITION_KEYS)


def _records(path: Path) -> list[tuple[Path, Record]]:
    """The JSON objects of a file: one a line, or all in one list."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TetherError(f"cannot read {path}: {error}") from None
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


def _parse(line: str, fault: str) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return fault
    return record if isinstance(record, dict) else fault
