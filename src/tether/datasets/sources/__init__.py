"""Where samples come from: what people have on their disks, and the sets that come with the package.

A source knows how many samples it has and gives any of them by its number, each under a key that stays the same. What
is wrong with one sample is said when that sample is asked for (`Rejected`), never before.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tether.datasets.manifest import digest, hash_file
from tether.datasets.samples import Rejected, Sample
from tether.datasets.shards import CONDITION_NAMES, PICTURE_SUFFIXES, TarReader, caption_of, decode_caption
from tether.errors import TetherError

__all__ = ["BUILTIN", "FolderSource", "RecordSource", "Source", "TarSource", "metadata", "open_source", "promptfile"]

BUILTIN = ("emoji3d", "scenes", "circles")
"""Names of the sets that come with the package."""

CONDITION = ".condition."
CONDITION_KEYS = tuple(key for name in CONDITION_NAMES for key in (name, f"{name}_file_name"))


class Source(ABC):
    """Samples by number.

    Attributes:
        kind: what sort of source it is, in a word.
        has_conditions: whether the samples bring their condition images.
    """

    kind: str
    has_conditions: bool

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def key(self, index: int) -> str:
        """The name of a sample; cheap, and never fails."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """A sample; raises Rejected where it cannot be had."""

    @abstractmethod
    def listing(self) -> list[Any]:
        """JSON values that change when the samples do; from captions, names and sizes, not from the pictures' bytes."""

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def fingerprint(self) -> str:
        """SHA-256 that tells whether this is the same source as before."""
        return digest([self.kind, self.listing()])


class FolderSource(Source):
    """Pictures in a folder and below it, with their captions beside them: `a.jpg`, `a.txt` (or `a.caption`).

    `a.condition.png` beside `a.jpg` is its condition.
    """

    kind = "folder"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        pictures = sorted(
            (path for path in folder.rglob("*") if _is_picture(path)),
            key=lambda path: path.relative_to(folder).as_posix(),
        )
        self.conditions = {
            str(path.with_name(path.name.split(".condition.")[0])): path for path in pictures if _is_condition(path)
        }
        self.pictures = [path for path in pictures if not _is_condition(path)]
        self.has_conditions = bool(self.conditions)

    def __len__(self) -> int:
        return len(self.pictures)

    def key(self, index: int) -> str:
        return self._name(self.pictures[index])

    def __getitem__(self, index: int) -> Sample:
        path = self.pictures[index]
        beside = self._caption_file(path)
        try:
            caption = "" if beside is None else decode_caption(beside.read_bytes())
        except OSError as error:
            raise Rejected("unreadable", f"{beside} cannot be read: {error.strerror}") from None
        condition = self.conditions.get(str(path.with_suffix("")))
        if self.has_conditions and condition is None:
            raise Rejected("condition unreadable", f"there is no {path.stem}.condition.png beside it")
        return Sample(self.key(index), path, caption, condition)

    @staticmethod
    def _caption_file(path: Path) -> Path | None:
        named = [path.with_suffix(suffix) for suffix in (".txt", ".caption")]
        return next((file for file in named if file.is_file()), None)

    def listing(self) -> list[Any]:
        files = [*self.pictures, *self.conditions.values()]
        words = [file for path in self.pictures if (file := self._caption_file(path))]
        return [
            *([self._name(path), path.stat().st_size] for path in files),
            *([self._name(path), _hash_if_there(path)] for path in words),
        ]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def _hash_if_there(path: Path) -> str | None:
    try:
        return hash_file(path)
    except OSError:
        return None


def _is_picture(path: Path) -> bool:
    return path.suffix[1:].lower() in PICTURE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _is_condition(path: Path) -> bool:
    return CONDITION in path.name


def file_of(folder: Path, name: str) -> Path:
    """The file in a folder that a record names: a record from elsewhere must not choose among all of this disk's files.

    Raises:
        Rejected: where the name leads out of the folder.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise Rejected("unreadable", f"{name!r} leads out of the folder that names it")
    return folder / name


class RecordSource(Source):
    """Records that name their files.

    Args:
        kind: what sort of source it is.
        records: each a JSON object and the folder its file names are relative to; a str tells what is wrong with it.
        image, condition: keys under which a record names its picture and, where it has one, its condition.
    """

    def __init__(
        self,
        kind: str,
        records: list[tuple[Path, dict[str, Any] | str]],
        image: tuple[str, ...],
        condition: tuple[str, ...],
    ) -> None:
        self.kind, self.records, self.image, self.condition = kind, records, image, condition
        self.has_conditions = any(isinstance(r, dict) and _first(r, condition) for _, r in records)

    def __len__(self) -> int:
        return len(self.records)

    def key(self, index: int) -> str:
        record = self.records[index][1]
        named = _first(record, self.image) if isinstance(record, dict) else None
        return f"{index:08d}:{named or '?'}"

    def __getitem__(self, index: int) -> Sample:
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

    def _sizes(self, folder: Path, record: dict[str, Any] | str) -> list[int | None]:
        """Bytes of the files that a record names; None where one cannot be had."""
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
    """The tutorial's fill50k: `prompt.json`, a line {"source": condition, "target": picture, "prompt": words} each."""
    return RecordSource("promptfile", _records(path), ("target",), ("source",))


def metadata(paths: list[Path]) -> RecordSource:
    """Hugging Face's imagefolder: `metadata.jsonl`, a line {"file_name": picture, "text": words} each."""
    records = [record for path in paths for record in _records(path)]
    return RecordSource("imagefolder", records, ("file_name",), CONDITION_KEYS)


def _records(path: Path) -> list[tuple[Path, dict[str, Any] | str]]:
    """The JSON objects of a file: one a line, or all in one list."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TetherError(f"{path} cannot be read: {error}") from None
    parsed: list[dict[str, Any] | str] = []
    if text.lstrip().startswith("["):
        try:
            parsed = [r if isinstance(r, dict) else "the record is no JSON object" for r in json.loads(text)]
        except (ValueError, RecursionError) as error:
            raise TetherError(f"{path} is no JSON: {error}") from None
    else:
        for number, line in enumerate(text.split("\n"), start=1):  # a caption may hold other ends of lines
            if line.strip():
                parsed.append(_parse(line, f"line {number} of {path.name} is no JSON object"))
    return [(path.parent, record) for record in parsed]


def _parse(line: str, fault: str) -> dict[str, Any] | str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return fault
    return record if isinstance(record, dict) else fault


class TarSource(Source):
    """WebDataset tar files; see `tether.datasets.shards`."""

    kind = "webdataset"

    def __init__(self, paths: list[Path]) -> None:
        self.reader = TarReader(paths)
        wanted = {f"{name}.{suffix}" for name in CONDITION_NAMES for suffix in PICTURE_SUFFIXES}
        self.has_conditions = any(wanted & set(member.files) for member in self.reader.members)

    def __len__(self) -> int:
        return len(self.reader)

    def key(self, index: int) -> str:
        return self.reader.members[index].key

    def __getitem__(self, index: int) -> Sample:
        sample = self.reader.sample(index)
        if self.has_conditions and sample.condition is None:
            raise Rejected("condition unreadable", "there is no .condition.png among its files")
        return sample

    def listing(self) -> list[Any]:
        return [[member.key, sorted(member.files.items())] for member in self.reader.members]


def open_source(ref: str | Path, *, size: int = 512, count: int | None = None) -> Source:
    """Opens a source of samples.

    Args:
        ref: "emoji3d", "scenes" or "circles"; or a folder of pictures with captions beside them, with `metadata.jsonl`,
            `prompt.json`, WebDataset tars or parquet files in it; or one such file.
        size: side of the pictures that the sets of the package draw.
        count: how many they draw; their own default when left out. Other sources give all they have.

    Raises:
        TetherError: where there is nothing to read, or pyarrow is needed and missing.
    """
    if str(ref) in BUILTIN:
        from tether.datasets.synthetic.builtin import builtin_source

        return builtin_source(str(ref), size, count)
    if count is not None:
        raise TetherError(f"count is for {', '.join(BUILTIN)}; {ref} gives all that it has: leave count out")
    path = Path(ref)
    if not path.exists():
        raise TetherError(f"there is no source {ref}: give a folder, a file, or one of {', '.join(BUILTIN)}")
    source = _open(path)
    if len(source) == 0:
        raise TetherError(
            f"{ref} holds no samples: expected pictures with captions beside them, metadata.jsonl, prompt.json, "
            "WebDataset tars or parquet files"
        )
    return source


def _open(path: Path) -> Source:
    """The first kind of source whose files are there.

    Archives deeper down count only where there are no pictures: a stray one must not hide them.
    """
    kinds: list[tuple[str, Callable[[list[Path]], Source]]] = [
        ("prompt.json", lambda found: promptfile(found[0])),
        ("metadata.jsonl", metadata),
        ("*.tar", TarSource),
        ("*.parquet", _parquet),
    ]
    for pattern, make in kinds:
        found = [path] if path.is_file() and path.match(pattern) else []
        if path.is_dir():
            found = sorted(path.glob(pattern))
            if not found and (pattern.endswith((".json", ".jsonl")) or not any(map(_is_picture, path.rglob("*")))):
                found = sorted(path.rglob(pattern))
        if found:
            return make(found)
    if path.is_dir():
        return FolderSource(path)
    raise TetherError(f"{path} is no source: give a folder, or a .tar, .parquet, metadata.jsonl or prompt.json file")


def _parquet(paths: list[Path]) -> Source:
    from tether.datasets.sources.tables import ParquetSource

    return ParquetSource(paths)
