"""WebDataset tar files, plain or compressed.

By WebDataset's rule a sample is named by the path of its files up to the first dot of their name; the rest is what
they are: `0.jpg` or `0.image.jpg`, `0.control.png`, `0.txt`.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

from tether.datasets.names import (
    CONDITION_NAMES,
    IMAGE_NAMES,
    IMAGE_SUFFIXES,
    NONE,
    Reading,
    captions_of,
    normal,
    refuse_unused,
)
from tether.datasets.shards import TarReader, decode_caption
from tether.datasets.source import Rejected, Sample, Source
from tether.datasets.sources.splits import choose_split, split_of
from tether.errors import TetherError

__all__ = ["TAR_SUFFIXES", "TarSource"]

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

_OPENERS: tuple[tuple[bytes, Callable[..., Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\0", lzma.open),
)
"""First bytes of a compressed file, and what opens it."""


class TarSource(Source):
    """The samples of tar files; see `tether.datasets.shards`. Compressed ones are unpacked into a temporary folder.

    Raises:
        TetherError: when a file is not a tar, the names that the user gave are missing, or images look like conditions
            and would not be used.
    """

    layout = "webdataset"

    def __init__(self, paths: list[Path], root: Path | None = None, reading: Reading | None = None) -> None:
        self.reading = reading or Reading()
        root = root or paths[0].parent
        kept, splits = choose_split(paths, lambda path: split_of(path, root, by_name=True), self.reading.split)
        self.left_out = {f"archives of the split {name}": count for name, count in splits.items()}
        self.paths = kept
        plain, stems, self._temporary = _uncompressed(kept)
        self.reader = TarReader(plain, stems)
        self.reading.refuse_folder(self.layout)
        marks = self._marks()
        self.conditions = self._suffixes(marks, CONDITION_NAMES, self.reading.condition_column, "condition")
        images = self._suffixes(marks, IMAGE_NAMES, self.reading.image_column, "image", plain_too=True)
        self.images = tuple(suffix for suffix in images if suffix not in self.conditions)
        if not self.conditions and self.reading.condition_column is None and {"source", "target"} <= marks.keys():
            self.conditions = tuple(sorted(marks["source"]))
        self.has_conditions = bool(self.conditions)
        self.conditions_from = f"files .{self.conditions[0]}" if self.conditions else ""
        if not self.conditions and self.reading.condition_column is None:
            unused = {mark for mark in marks if mark and normal(mark) not in IMAGE_NAMES}
            if self.reading.image_column is not None:
                unused |= marks.get("", set()) - {*self.images}
            refuse_unused(unused, "the archive", "--condition-column")
        self._refuse_two_images()

    def _marks(self) -> dict[str, set[str]]:
        """What images are called between the sample's name and the format: "control" -> {"control.png"}; "" -> ..."""
        marks: dict[str, set[str]] = {}
        for member in self.reader.members:
            for suffix in member.files:
                mark, _, ending = suffix.rpartition(".")
                if ending in IMAGE_SUFFIXES:
                    marks.setdefault(mark, set()).add(suffix)
        return marks

    def _suffixes(
        self, marks: dict[str, set[str]], table: tuple[str, ...], given: str | None, what: str, plain_too: bool = False
    ) -> tuple[str, ...]:
        """The suffixes that hold images, or conditions, in the order in which they are looked for."""
        if given == NONE:
            return ()
        if given is not None:
            if given.lower() in marks.get("", ()):  # 0.jpg and 0.png: one of them is the image
                return (given.lower(),)
            if given.lower() not in marks:
                raise TetherError(
                    f"no sample has a {what} .{given}.png: there are {', '.join(sorted(marks)) or 'none'}"
                )
            return tuple(sorted(marks[given.lower()]))
        order = {name: number for number, name in enumerate(table)}
        known = sorted((order[normal(mark)], mark) for mark in marks if normal(mark) in order)
        suffixes = [suffix for _, mark in known for suffix in sorted(marks[mark])]
        return (*IMAGE_SUFFIXES, *suffixes) if plain_too else tuple(suffixes)

    def _refuse_two_images(self) -> None:
        """Raises a TetherError when a sample has two images, of which one may be the condition."""
        for member in () if self.reading.no_conditions else self.reader.members:
            found = [suffix for suffix in self.images if suffix in member.files]
            if len(found) > 1:
                raise TetherError(
                    f"the sample {member.key} has the images {' and '.join(sorted(found))}: give --condition-column "
                    f"{sorted(found)[1].partition('.')[0]} if one is the condition, or name the image with "
                    "--image-column, and --condition-column none"
                )

    def __len__(self) -> int:
        return len(self.reader)

    def key(self, index: int) -> str:
        return self.reader.members[index].key

    def sample(self, index: int, kind: str | None = None) -> Sample:
        sample = self.reader.sample(index, self.images, self.conditions)
        if self.has_conditions and sample.condition is None:
            raise Rejected("condition unreadable", f"the sample has no .{self.conditions[0]}")
        column = self.reading.caption_column
        if column is None:
            return sample
        beside = self.reader.read(index, column.lower())
        captions = captions_of(self.reader.meta(index).get(column)) if beside is None else (decode_caption(beside),)
        return Sample(sample.key, sample.image, captions[0] if captions else "", sample.condition, captions[1:])

    def file_sizes(self, index: int) -> tuple[int, ...] | None:
        files = self.reader.members[index].files
        return tuple(files[name][1] for name in (*self.images, *self.conditions) if name in files)

    def files(self) -> list[Path]:
        return self.paths

    def listing(self) -> list[Any]:
        return [[member.key, sorted(member.files.items())] for member in self.reader.members]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_temporary": None}  # the first process deletes the temporary folder


def _uncompressed(paths: list[Path]) -> tuple[list[Path], list[str], Any]:
    """Paths of plain tars, the shards' names, and the temporary folder of those that were compressed."""
    plain, stems, folder = [], [], None
    for path in paths:
        ending = next(
            (end for end in sorted(TAR_SUFFIXES, key=len, reverse=True) if path.name.lower().endswith(end)), ""
        )
        stems.append(path.name[: len(path.name) - len(ending)] if ending else path.stem)
        opener = _opener(path)
        if opener is None:
            plain.append(path)
            continue
        folder = folder or tempfile.TemporaryDirectory(prefix="tether-tar-")
        target = Path(folder.name) / f"{len(plain)}.tar"
        try:
            with opener(path) as packed, target.open("wb") as file:
                shutil.copyfileobj(cast(IO[bytes], packed), file)
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise TetherError(f"{path} cannot be decompressed: {error}") from None
        plain.append(target)
    return plain, stems, folder


def _opener(path: Path) -> Callable[..., Any] | None:
    try:
        with path.open("rb") as file:
            first = file.read(6)
    except OSError as error:
        raise TetherError(f"cannot read {path}: {error.strerror}") from None
    return next((opener for magic, opener in _OPENERS if first.startswith(magic)), None)
