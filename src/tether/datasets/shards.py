"""WebDataset shards: a sample is the consecutive members of a tar file that share a name up to the first dot.

    00000007.png            the image (or .jpg, ...)
    00000007.condition.png  its condition image
    00000007.txt            its caption
    00000007.json           {"key": ..., "content": ...}: its key in the source, SHA-256 of its pixels; and
                            "captions", all of them, if it has several

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

from tether.datasets.names import CONDITION_NAMES, IMAGE_SUFFIXES, caption_values, captions_of
from tether.datasets.prepare import Prepared
from tether.datasets.source import Rejected, Sample
from tether.errors import TetherError

__all__ = [
    "TarMember",
    "TarReader",
    "caption_of",
    "decode_caption",
    "write_tar",
]

CAPTION_SUFFIXES = ("txt", "caption", "text", "transcript")
CONDITION_SUFFIXES = tuple(f"{name}.{suffix}" for name in CONDITION_NAMES for suffix in IMAGE_SUFFIXES)


@dataclass(frozen=True)
class TarMember:
    """The files of one sample: suffix ("condition.png") -> offset and size in bytes."""

    path: Path
    name: str
    files: dict[str, tuple[int, int]]
    shard: str

    @property
    def key(self) -> str:
        """Shard and sample: "shard-00000/00000007"."""
        return f"{self.shard}/{self.name}"


class TarReader:
    """Samples of tar files, by number.

    Args:
        paths: the tar files, in order, uncompressed. Only headers are read when opening them.
        stems: names of the shards in keys; by default the files' names without ".tar".

    Raises:
        TetherError: for a file that is not an uncompressed tar.
    """

    def __init__(self, paths: Sequence[Path], stems: Sequence[str] | None = None) -> None:
        self.paths = list(paths)
        stems = [path.stem for path in paths] if stems is None else stems
        self.members = [m for path, stem in zip(self.paths, stems, strict=True) for m in _members(path, stem)]

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

    def sample(
        self,
        index: int,
        images: Sequence[str] = IMAGE_SUFFIXES,
        conditions: Sequence[str] = CONDITION_SUFFIXES,
    ) -> Sample:
        """One sample.

        Args:
            index: its number.
            images, conditions: suffixes of the image and of the condition, in the order in which they are looked for.

        Raises:
            Rejected: if it has no image, or its caption is not UTF-8.
        """
        member = self.members[index]
        image = self._first(index, images)
        if image is None:
            names = ", ".join(member.files)
            raise Rejected(
                "unreadable", f"no image among its files ({names})" if names else "the shard is damaged here"
            )
        captions = self.captions(index)
        condition = self._first(index, conditions)
        return Sample(member.key, image, captions[0] if captions else "", condition, captions[1:])

    def captions(self, index: int) -> tuple[str, ...]:
        """A sample's captions, from its text file or its JSON; "captions" in the JSON of a built dataset has all.

        Raises:
            Rejected: if its text is not UTF-8.
        """
        meta = self.meta(index)
        if "content" in meta and "captions" in meta:
            return captions_of(meta["captions"])
        text = self._first(index, CAPTION_SUFFIXES)
        return caption_values(meta) if text is None else (decode_caption(text),)

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
    """The first caption in a record, under any of the usual keys; "" if there is none."""
    return next(iter(caption_values(record)), "")


def _members(path: Path, stem: str) -> list[TarMember]:
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
            raise TetherError(f"{path} is not an uncompressed tar file: {error}") from None
        found["(the rest)"] = {}
    return [TarMember(path, name, files, stem) for name, files in found.items()]


def write_tar(path: Path, samples: Sequence[tuple[int, Prepared]]) -> None:
    """Writes samples, each with its number in the source, as one shard."""
    with tarfile.open(path, "w:", format=tarfile.USTAR_FORMAT) as archive:
        for number, sample in samples:
            meta: dict[str, Any] = {"content": sample.content, "key": sample.key}
            if sample.further_captions:
                meta["captions"] = [sample.caption, *sample.further_captions]
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
