"""Parquet files of samples, as Hugging Face publishes them: columns for image, caption and, optionally, condition.

An image is bytes, or {"bytes": ..., "path": ...}. Needs pyarrow: `pip install tether-control[parquet]`.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any

from tether.datasets.shards import CAPTION_KEYS
from tether.datasets.source import Rejected, Sample, Source
from tether.datasets.sources.records import CONDITION_KEYS, file_of
from tether.errors import TetherError

__all__ = ["ParquetSource"]

IMAGE_KEYS = ("image", "target", "img", "jpg", "png")


class ParquetSource(Source):
    """Rows of parquet files; one row group is in memory at a time.

    Raises:
        TetherError: if pyarrow is missing, a file is damaged, or there is no column of images or of captions.
    """

    layout = "parquet"

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.groups: list[tuple[int, int]] = []
        rows = []
        self.sizes = [path.stat().st_size for path in paths]
        columns: set[str] = set()
        for number, path in enumerate(paths):
            file = _open_parquet(path)
            columns |= set(file.schema_arrow.names)
            for group in range(file.metadata.num_row_groups):
                self.groups.append((number, group))
                rows.append(file.metadata.row_group(group).num_rows)
        self.ends = list(accumulate(rows))
        self.image = self._column(columns, IMAGE_KEYS, "images")
        self.caption = self._column(columns, CAPTION_KEYS, "captions")
        self.condition = next((name for name in CONDITION_KEYS if name in columns), None)
        self.has_conditions = self.condition is not None
        self._loaded: tuple[int, Any] = (-1, None)

    def _column(self, columns: set[str], names: tuple[str, ...], what: str) -> str:
        for name in names:
            if name in columns:
                return name
        present = ", ".join(sorted(columns))
        raise TetherError(
            f"{self.paths[0]} has no column of {what}: expected one of {', '.join(names)}, it has {present}"
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": (-1, None)}  # each process reads its own rows

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def _place(self, index: int) -> tuple[int, int]:
        """The row group, and the row within it."""
        group = bisect_right(self.ends, index)
        return group, index - (self.ends[group - 1] if group else 0)

    def key(self, index: int) -> str:
        group, row = self._place(index)
        number, within = self.groups[group]
        return f"{self.paths[number].stem}/{within}/{row}"

    def sample(self, index: int, kind: str | None = None) -> Sample:
        group, row = self._place(index)
        number, _ = self.groups[group]
        record = self._rows(group).slice(row, 1).to_pylist()[0]
        folder = self.paths[number].parent
        image = _image(record.get(self.image), folder)
        if image is None:
            raise Rejected("unreadable", "the row has no image")
        condition = _image(record.get(self.condition), folder) if self.condition else None
        if self.condition and condition is None:
            raise Rejected("condition unreadable", "the row has no condition")
        return Sample(self.key(index), image, _caption(record.get(self.caption)), condition)

    def _rows(self, group: int) -> Any:
        """The table of a row group, kept until another group is read.

        Raises:
            Rejected: if the rows are damaged.
        """
        if self._loaded[0] != group:
            number, within = self.groups[group]
            names = [name for name in (self.image, self.caption, self.condition) if name]
            try:
                table = _open_parquet(self.paths[number]).read_row_group(within, columns=names)
            except (OSError, ValueError, NotImplementedError) as error:
                line = (str(error) or type(error).__name__).splitlines()[0]
                raise Rejected("unreadable", f"the row group is damaged: {line}") from None
            self._loaded = (group, table)
        return self._loaded[1]

    def listing(self) -> list[Any]:
        return [[path.name, size] for path, size in zip(self.paths, self.sizes, strict=True)]


def _image(value: Any, folder: Path) -> bytes | Path | None:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value:
        return file_of(folder, value)
    return value if isinstance(value, bytes) and value else None


def _caption(value: Any) -> str:
    """A caption; the first one, if the image has several."""
    first = next(iter(value), "") if isinstance(value, list) else value
    return first if isinstance(first, str) else ""


def _open_parquet(path: Path) -> Any:
    try:
        import pyarrow.parquet as parquet  # type: ignore[import-not-found]
    except ImportError:
        raise TetherError("reading parquet files needs pyarrow: pip install 'tether-control[parquet]'") from None
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's errors derive from these
        raise TetherError(f"{path} is not a parquet file: {error}") from None
