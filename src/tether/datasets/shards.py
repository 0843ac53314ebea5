"""WebDataset shards: a sample is the consecutive members of a tar file that share a name up to the first dot.

    00000007.png            the picture (or .jpg, ...)
    00000007.condition.png  its condition image
    00000007.txt            its caption
    00000007.json           {"key": ..., "content": ...}: where it comes from, SHA-256 of its pixels

Reading goes straight to a member's bytes by its offset, so samples are found in any order without unpacking.
The bytes of a written shard are a function of its samples alone: no time, owner or machine is in them.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tether.datasets.samples import Prepared, Rejected, Sample
from tether.errors import TetherError

__all__ = ["CONDITION_NAMES", "PICTURE_SUFFIXES", "TarMember", "TarReader", "write_tar"]

PICTURE_SUFFIXES = ("png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif")
CONDITION_NAMES = ("condition", "conditioning", "conditioning_image", "cond", "hint", "control")
CAPTION_SUFFIXES = ("txt", "caption", "text")
CAPTION_KEYS = ("text", "caption", "prompt")


@dataclass(frozen=True)
class TarMember:
    """Where the files of one sample lie: suffix ("condition.png") -> offset and size in bytes."""

    path: Path
    name: str
    files: dict[str, tuple[int, int]]

    @property
    def key(self) -> str:
        """Shard and sample: "shard-00000/00000007"."""
        return f"{self.path.stem}/{self.name}"


class TarReader:
    """Samples of tar files, by number.

    Args:
        paths: the tar files, in order. Only their headers are read here.

    Raises:
        TetherError: for a file that is no plain tar.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.members = [member for path in self.paths for member in _members(path)]

    def __len__(self) -> int:
        return len(self.members)

    def read(self, index: int, suffix: str) -> bytes | None:
        """The bytes of one of a sample's files, or None where it has no such file.

        Raises:
            Rejected: where the tar ends before the file does.
        """
        member = self.members[index]
        if suffix not in member.files:
            return None
        offset, size = member.files[suffix]
        with member.path.open("rb") as file:
            whole = file.seek(0, 2) >= offset + size  # before room is made for what the tar only claims to hold
            file.seek(offset)
            data = file.read(size) if whole else b""
        if len(data) != size:
            raise Rejected("unreadable", f"{member.path.name} is cut off within {member.name}.{suffix}")
        return data

    def meta(self, index: int) -> dict[str, Any]:
        """What a sample's `.json` says; empty where it has none or a bad one."""
        try:
            meta = json.loads(self.read(index, "json") or b"{}")
        except (ValueError, RecursionError):
            return {}
        return meta if isinstance(meta, dict) else {}

    def sample(self, index: int) -> Sample:
        """The sample of that number.

        Raises:
            Rejected: where it has no picture, or its caption is not UTF-8.
        """
        member = self.members[index]
        image = self._first(index, PICTURE_SUFFIXES)
        if image is None:
            told = (
                f"there is no picture among {', '.join(member.files)}" if member.files else "the shard is damaged here"
            )
            raise Rejected("unreadable", told)
        condition = self._first(index, [f"{name}.{suffix}" for name in CONDITION_NAMES for suffix in PICTURE_SUFFIXES])
        return Sample(member.key, image, self.caption(index), condition)

    def caption(self, index: int) -> str:
        """A sample's caption, from its text file or its JSON; "" where it has none.

        Raises:
            Rejected: where it is not UTF-8.
        """
        text = self._first(index, CAPTION_SUFFIXES)
        if text is None:
            return caption_of(self.meta(index))
        return decode_caption(text)

    def _first(self, index: int, suffixes: Sequence[str]) -> bytes | None:
        found = next((suffix for suffix in suffixes if suffix in self.members[index].files), None)
        return None if found is None else self.read(index, found)


def decode_caption(text: bytes) -> str:
    """UTF-8 bytes, with or without a byte-order mark, as a string; Rejected where they are not UTF-8."""
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Rejected("unreadable", "its caption is not UTF-8") from None


def caption_of(record: dict[str, Any]) -> str:
    """The caption in a record, under whichever of the usual names it stands."""
    return next((str(record[key]) for key in CAPTION_KEYS if isinstance(record.get(key), str)), "")


def _members(path: Path) -> list[TarMember]:
    """The samples of a tar file. Of a damaged file, those before the fault and one that tells of it."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for entry in archive:
                folder, _, file = entry.name.rpartition("/")
                name, dot, suffix = file.partition(".")
                if entry.isfile() and name and dot:
                    key = f"{folder}/{name}" if folder.strip("./") else name
                    found.setdefault(key, {})[suffix.lower()] = (entry.offset_data, entry.size)
    except (tarfile.TarError, OSError, ValueError, OverflowError, MemoryError) as error:
        if not found:
            raise TetherError(f"{path} is no plain tar file ({error}): unpack compressed ones first") from None
        found["(the rest)"] = {}
    return [TarMember(path, name, files) for name, files in found.items()]


def write_tar(path: Path, samples: Sequence[tuple[int, Prepared]]) -> None:
    """Writes samples, each with its number in the source, as a shard."""
    with tarfile.open(path, "w:", format=tarfile.USTAR_FORMAT) as archive:
        for number, sample in samples:
            meta = {"content": sample.content, "key": sample.key}
            files = {
                sample.suffix: sample.image,
                "condition.png": sample.condition,
                "txt": sample.caption.encode(),
                "json": json.dumps(meta, ensure_ascii=False).encode("utf-8", "backslashreplace"),
            }
            for suffix, data in files.items():
                entry = tarfile.TarInfo(f"{number:08d}.{suffix}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
