"""A folder of images with their captions beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tether.datasets.shards import IMAGE_SUFFIXES, decode_caption
from tether.datasets.source import Rejected, Sample, Source
from tether.files.hashing import hash_file

__all__ = ["FolderSource", "is_image"]

CONDITION = ".condition."


class FolderSource(Source):
    """Images in a folder and below it, with their captions beside them: `a.jpg`, `a.txt` (or `a.caption`).

    `a.condition.png` beside `a.jpg` is its condition.
    """

    layout = "folder"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        images = sorted(
            (path for path in folder.rglob("*") if is_image(path)),
            key=lambda path: path.relative_to(folder).as_posix(),
        )
        self.conditions = {
            str(path.with_name(path.name.split(CONDITION)[0])): path for path in images if CONDITION in path.name
        }
        self.images = [path for path in images if CONDITION not in path.name]
        self.has_conditions = bool(self.conditions)

    def __len__(self) -> int:
        return len(self.images)

    def key(self, index: int) -> str:
        return self._name(self.images[index])

    def sample(self, index: int, kind: str | None = None) -> Sample:
        path = self.images[index]
        beside = self._caption_file(path)
        try:
            caption = "" if beside is None else decode_caption(beside.read_bytes())
        except OSError as error:
            raise Rejected("unreadable", f"cannot read {beside}: {error.strerror}") from None
        condition = self.conditions.get(str(path.with_suffix("")))
        if self.has_conditions and condition is None:
            raise Rejected("condition unreadable", f"{path.stem}.condition.png is missing")
        return Sample(self.key(index), path, caption, condition)

    @staticmethod
    def _caption_file(path: Path) -> Path | None:
        named = [path.with_suffix(suffix) for suffix in (".txt", ".caption")]
        return next((file for file in named if file.is_file()), None)

    def listing(self) -> list[Any]:
        files = [*self.images, *self.conditions.values()]
        captions = [file for path in self.images if (file := self._caption_file(path))]
        return [
            *([self._name(path), path.stat().st_size] for path in files),
            *([self._name(path), _hash_or_none(path)] for path in captions),
        ]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def _hash_or_none(path: Path) -> str | None:
    try:
        return hash_file(path)
    except OSError:
        return None


def is_image(path: Path) -> bool:
    """Whether a path is a file with an image's suffix, and not hidden."""
    return path.suffix[1:].lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
