"""WebDataset tar files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tether.datasets.shards import CONDITION_NAMES, IMAGE_SUFFIXES, TarReader
from tether.datasets.source import Rejected, Sample, Source

__all__ = ["TarSource"]


class TarSource(Source):
    """The samples of tar files; see `tether.datasets.shards`."""

    layout = "webdataset"

    def __init__(self, paths: list[Path]) -> None:
        self.reader = TarReader(paths)
        wanted = {f"{name}.{suffix}" for name in CONDITION_NAMES for suffix in IMAGE_SUFFIXES}
        self.has_conditions = any(wanted & set(member.files) for member in self.reader.members)

    def __len__(self) -> int:
        return len(self.reader)

    def key(self, index: int) -> str:
        return self.reader.members[index].key

    def sample(self, index: int, kind: str | None = None) -> Sample:
        sample = self.reader.sample(index)
        if self.has_conditions and sample.condition is None:
            raise Rejected("condition unreadable", "the sample has no .condition.png")
        return sample

    def listing(self) -> list[Any]:
        return [[member.key, sorted(member.files.items())] for member in self.reader.members]
