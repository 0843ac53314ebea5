"""WebDataset shards: a sample is the consecutive members of a tar file that share a name up to the first dot.

    00000007.png            the image (or .jpg, ...)
    00000007.condition.png  its condition image
    00000007.txt            its caption
    00000007.json           {"key": ..., "content": ...}: its key in the source, SHA-256 of its pixels

Members are read by their byte offset, so samples are read in any order without unpacking.
The bytes of a written shard depend only on its samples: they contain no time, owner or machine.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tether.datasets.prepare import Prepared
from tether.datasets.source import Rejected, Sample
from tether.errors import TetherError

__all__ = [
    "CAPTION_KEYS",
    "CONDITION_NAMES",
    "IMAGE_SUFFIXES",
    "TarMember",
    "TarReader",
    "caption_of",
    "decode_caption",
    "write_tar",
]

IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif")
CONDITION_NAMES = ("condition", "conditioning", "conditioning_image", "cond", "hint", "control")
CAPTION_SUFFIXES = ("txt", "caption", "text")
CAPTION_KEYS = ("text", "caption", "prompt")


@dataclass(frozen=True)
class TarMember:
    """The files of one sample: suffix ("condition.png") -> offset and size in bytes."""

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
        paths: the tar files, in order. Only headers are read when opening them.

    Raises:
        TetherError: for a file that is not an uncompressed tar.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.members = [member for path in self.paths for member in _members(path)]

    def __len__(self) -> int:
        return len(self.members)

    def read(self, index: int, suffix: str) -> bytes | None:
        """The bytes of one of a sample's files; None if it has no such file.

        Raises:
            Rejected: if the tar ends before the file does.
        """
        member = self.members[index]
        if suffix not in member.files:
            return None
        offset, size = member.files[suffix]
        with member.path.open("rb") as file:
            whole = file.seek(0, 2) >= offset + size  # before memory is allocated for a size that the tar only declares
            file.seek(offset)
            data = file.read(size) if whole else b""
        if len(data) != size:
            raise Rejected("unreadable", f"{member.path.name} is truncated within {member.name}.{suffix}")
        return data

    def meta(self, index: int) -> dict[str, Any]:
        """The content of a sample's `.json`; empty if it is missing or invalid."""
        try:
            meta = json.loads(self.read(index, "json") or b"{}")
        except (ValueError, RecursionError):
            return {}
        return meta if isinstance(meta, dict) else {}

    def sample(self, index: int) -> Sample:
        """One sample.

        Raises:
            Rejected: if it has no image, or its caption is not UTF-8.
        """
        member = self.members[index]
        image = self._first(index, IMAGE_SUFFIXES)
        if image is None:
            names = ", ".join(member.files)
            raise Rejected(
                "unreadable", f"no image among its files ({names})" if names else "the shard is damaged here"
            )
        condition = self._first(index, [f"{name}.{suffix}" for name in CONDITION_NAMES for suffix in IMAGE_SUFFIXES])
        return Sample(member.key, image, self.caption(index), condition)

    def caption(self, index: int) -> str:
        """A sample's caption, from its text file or its JSON; "" if it has none.

        Raises:
            Rejected: if it is not UTF-8.
        """
        text = self._first(index, CAPTION_SUFFIXES)
        if text is None:
            return caption_of(self.meta(index))
        return decode_caption(text)

    def _first(self, index: int, suffixes: Sequence[str]) -> bytes | None:
        found = next((suffix for suffix in suffixes if suffix in self.members[index].files), None)
        return None if found is None else self.read(index, found)


def decode_caption(text: bytes) -> str:
    """UTF-8 bytes, with or without a byte-order mark, as a string.

    Raises:
        Rejected: if they are not UTF-8.
    """
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Rejected("unreadable", "its caption is not UTF-8") from None


def caption_of(record: dict[str, Any]) -> str:
    """The caption in a record, under any of the usual keys."""
    return next((str(record[key]) for key in CAPTION_KEYS if isinstance(record.get(key), str)), "")


def _members(path: Path) -> list[TarMember]:
    """The samples of a tar file. A damaged one gives those before the damage, and one more that raises when read."""
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
            raise TetherError(f"{path} is not an uncompressed tar file ({error}): decompress it first") from None
        found["(the rest)"] = {}
    return [TarMember(path, name, files) for name, files in found.items()]


def write_tar(path: Path, samples: Sequence[tuple[int, Prepared]]) -> None:
    """Writes samples, each with its number in the source, as one shard."""
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
