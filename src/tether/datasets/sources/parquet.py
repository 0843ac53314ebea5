"""Parquet files of samples, as Hugging Face publishes them: columns for image, caption and, optionally, condition.

An image is bytes, or {"bytes": ..., "path": ...}. Rows of the same image and condition are one sample with several
captions: rows whose images have different paths are different, others are compared by the bytes of their images.
Needs pyarrow: `pip install tether-control[parquet]`.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Hashable, Iterator
from itertools import accumulate
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
    normal,
    refuse_unused,
)
from tether.datasets.source import Rejected, Sample, Source
from tether.datasets.sources.merged import merge_captions
from tether.datasets.sources.records import LOOKED_AT, file_of, is_file
from tether.datasets.sources.splits import choose_split, split_of
from tether.errors import TetherError

__all__ = ["ParquetSource"]


class ParquetSource(Source):
    """The images in rows of parquet files; one row group is in memory at a time.

    Raises:
        TetherError: if pyarrow is missing, a file is damaged, there is no column of images or of captions, or a column
            of images looks like conditions and would not be used.
    """

    layout = "parquet"

    def __init__(self, paths: list[Path], root: Path | None = None, reading: Reading | None = None) -> None:
        self.reading = reading or Reading()
        self.reading.refuse_folder(self.layout)
        root = root or paths[0].parent
        self.paths, splits = choose_split(paths, lambda path: split_of(path, root, by_name=True), self.reading.split)
        self.left_out = _rows_left_out([path for path in paths if path not in self.paths], root) if splits else {}
        self.groups: list[tuple[int, int]] = []
        rows = []
        self.sizes = [path.stat().st_size for path in self.paths]
        columns: dict[str, bool] = {}
        for number, path in enumerate(self.paths):
            file = _open_parquet(path)
            named = _names_of_images(file, path.parent)
            for field in file.schema_arrow:
                columns[field.name] = (
                    columns.get(field.name, False) or _may_hold_images(field.type) or field.name in named
                )
            for group in range(file.metadata.num_row_groups):
                self.groups.append((number, group))
                rows.append(file.metadata.row_group(group).num_rows)
        self.ends = list(accumulate(rows))
        self.image, self.caption, self.condition = self._columns(columns)
        self.has_conditions = self.condition is not None
        self.conditions_from = f"column {self.condition!r}" if self.condition else ""
        self._loaded: tuple[int, Any] = (-1, None)
        self.random_access = False  # a row is read with all others of its group
        self.samples = merge_captions(self._images_and_captions())

    def _columns(self, columns: dict[str, bool]) -> tuple[str, str | None, str | None]:
        """The columns of images, captions and conditions; `columns` says of each whether it may hold images."""
        reading = self.reading
        image = self._column(columns, IMAGE_NAMES, reading.image_column, "images", "--image-column")
        caption = None
        if reading.captions != "none":
            caption = self._column(columns, CAPTION_NAMES, reading.caption_column, "captions", "--caption-column")
        found = find_names(columns, CONDITION_NAMES, reading.condition_column, "condition")
        if not found and reading.condition_column is None and normal(image) == "target":
            found = tuple(name for name in columns if normal(name) == "source")
        if not found and reading.condition_column != NONE:
            unused = [name for name, images in columns.items() if images and name not in (image, caption)]
            refuse_unused(unused, self.paths[0], "--condition-column")
        return image, caption, next(iter(found), None)

    def _column(
        self, columns: dict[str, bool], table: tuple[str, ...], given: str | None, what: str, option: str
    ) -> str:
        found = find_names(columns, table, given, what)
        if not found:
            raise TetherError(
                f"{self.paths[0]} has no column of {what}: expected one of {', '.join(table)}; it has "
                f"{', '.join(sorted(columns))}; name one with {option}"
            )
        return found[0]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": (-1, None)}  # each process reads its own rows

    def __len__(self) -> int:
        return len(self.samples)

    def _place(self, number: int) -> tuple[int, int]:
        """The group of a row, and its number within it."""
        group = bisect_right(self.ends, number)
        return group, number - (self.ends[group - 1] if group else 0)

    def _images_and_captions(self) -> Iterator[tuple[Hashable | None, tuple[str, ...]]]:
        """Of each row: what tells its image and condition from others, None if they differ anyway; its captions."""
        names = [name for name in self._paths_of_images() for name in name]
        often = {name for name, count in Counter(names).items() if name is None or count > 1}
        for group, paths in enumerate(self._paths_of_images()):
            captions = self._values(group, self.caption)
            twins = often.intersection(paths)
            images, conditions = (self._values(group, name if twins else None) for name in (self.image, self.condition))
            for path, caption, image, condition in zip(paths, captions, images, conditions, strict=True):
                yield (_identity(image, condition) if path in twins else None), captions_of(caption)

    def _paths_of_images(self) -> Iterator[list[str | None]]:
        """Of each row group, the paths of its images; None where there is no path."""
        for group in range(len(self.groups)):
            values = self._values(group, f"{self.image}.path")
            yield [value.get("path") or None if isinstance(value, dict) else None for value in values]

    def _values(self, group: int, column: str | None) -> list[Any]:
        """A column of a row group, or a part of one; None for each row that is damaged or has no such column."""
        rows = self.ends[group] - (self.ends[group - 1] if group else 0)
        try:
            table = None if column is None else self._read(group, [column])
        except Rejected:
            table = None
        return table.column(0).to_pylist() if table is not None and table.num_columns else [None] * rows

    def key(self, index: int) -> str:
        group, row = self._place(self.samples[index].number)
        number, within = self.groups[group]
        return f"{self.paths[number].stem}/{within}/{row}"

    def sample(self, index: int, kind: str | None = None) -> Sample:
        row_number, captions = self.samples[index]
        group, row = self._place(row_number)
        number, _ = self.groups[group]
        record = self._rows(group).slice(row, 1).to_pylist()[0]
        folder = self.paths[number].parent
        image = _image(record.get(self.image), folder)
        if image is None:
            raise Rejected("unreadable", "the row has no image")
        condition = _image(record.get(self.condition), folder) if self.condition else None
        if self.condition and condition is None:
            raise Rejected("condition unreadable", "the row has no condition")
        return Sample(self.key(index), image, captions[0] if captions else "", condition, captions[1:])

    def _rows(self, group: int) -> Any:
        """The table of a row group, kept until another group is read.

        Raises:
            Rejected: if the rows are damaged.
        """
        if self._loaded[0] != group:
            self._loaded = (group, self._read(group, [name for name in (self.image, self.condition) if name]))
        return self._loaded[1]

    def _read(self, group: int, columns: list[str]) -> Any:
        """Columns of a row group.

        Raises:
            Rejected: if they are damaged.
        """
        number, within = self.groups[group]
        try:
            return _open_parquet(self.paths[number]).read_row_group(within, columns=columns)
        except (OSError, ValueError, NotImplementedError) as error:
            line = (str(error) or type(error).__name__).splitlines()[0]
            raise Rejected("unreadable", f"the row group is damaged: {line}") from None

    def files(self) -> list[Path]:
        return self.paths

    def listing(self) -> list[Any]:
        return [[path.name, size] for path, size in zip(self.paths, self.sizes, strict=True)]


def _identity(image: Any, condition: Any) -> Hashable | None:
    """What tells an image and its condition from others: their bytes, by hash, or the paths of their files."""
    parts = [
        value.get("bytes") or value.get("path") if isinstance(value, dict) else value for value in (image, condition)
    ]
    if not isinstance(parts[0], bytes | str) or not parts[0]:
        return None
    return tuple(hashlib.sha256(part).digest() if isinstance(part, bytes) else str(part) for part in parts)


def _image(value: Any, folder: Path) -> bytes | Path | None:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value:
        return file_of(folder, value)
    return value if isinstance(value, bytes) and value else None


def _rows_left_out(paths: list[Path], root: Path) -> dict[str, int]:
    """The rows of files that are not read, by their split."""
    counts: Counter[str] = Counter()
    for path in paths:
        rows = _open_parquet(path).metadata.num_rows
        counts[f"rows of the split {split_of(path, root, by_name=True) or 'none'}"] += rows
    return dict(counts)


def _may_hold_images(kind: Any) -> bool:
    """Whether a column's type is bytes, or Hugging Face's {"bytes": ..., "path": ...}."""
    text = str(kind)
    return text in ("binary", "large_binary") or (text.startswith("struct<") and "bytes: " in text)


def _names_of_images(file: Any, folder: Path) -> set[str]:
    """The columns whose first values name image files in a folder, and that are not known to be those of images."""
    texts = [
        field.name
        for field in file.schema_arrow
        if str(field.type) in ("string", "large_string") and normal(field.name) not in IMAGE_NAMES
    ]
    try:
        rows = next(file.iter_batches(LOOKED_AT, columns=texts)).to_pylist() if texts else []
    except (OSError, ValueError, NotImplementedError, StopIteration):
        return set()
    return {name for name in texts for row in rows if is_file(folder, row[name])}


def _open_parquet(path: Path) -> Any:
    try:
        import pyarrow.parquet as parquet  # type: ignore[import-not-found]
    except ImportError:
        raise TetherError("reading parquet files needs pyarrow: pip install 'tether-control[parquet]'") from None
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's errors derive from these
        raise TetherError(f"{path} is not a parquet file: {error}") from None
