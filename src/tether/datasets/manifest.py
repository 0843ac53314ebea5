"""What a folder of shards holds, and how files get there whole.

A file is written beside its place, flushed to the disk, and renamed, which a file system does or does not do but never
half. Of each finished shard a small record is kept in `OUT/.parts/`, so that a run that was killed goes on behind the
last whole shard. When all shards are there, their records move into `OUT/manifest.json` and `.parts` goes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tether.errors import TetherError

__all__ = [
    "Manifest",
    "Parts",
    "ShardRecord",
    "digest",
    "hash_file",
    "read_manifest",
    "write_file",
    "write_json",
    "write_manifest",
]

MANIFEST, PARTS = "manifest.json", ".parts"


class ShardRecord(BaseModel):
    """A shard's file name, the number of its samples, its size in bytes and its SHA-256."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    samples: int
    bytes: int
    sha256: str

    def fault(self, folder: Path) -> str | None:
        """What is wrong with the shard's file in one line, or None where it is as recorded."""
        path = folder / self.name
        if not path.is_file():
            return f"{self.name} is missing"
        if path.stat().st_size != self.bytes:
            return f"{self.name} has {path.stat().st_size} bytes instead of {self.bytes}"
        if hash_file(path) != self.sha256:
            return f"{self.name} has changed: its SHA-256 is not the recorded one"
        return None

    @classmethod
    def of(cls, path: Path, samples: int) -> ShardRecord:
        """The record of a file as it is."""
        return cls(name=path.name, samples=samples, bytes=path.stat().st_size, sha256=hash_file(path))


class Manifest(BaseModel):
    """What a finished folder holds.

    Attributes:
        settings: everything that decides the content, format version included.
        samples: how many samples there are.
        shards: one record a shard, in order.
        quarantined: how many samples were left out, by reason.
        files: SHA-256 of the other files, by name: of `quarantine.jsonl`, which names each sample that was left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: dict[str, Any]
    samples: int
    shards: tuple[ShardRecord, ...]
    quarantined: dict[str, int] = {}
    files: dict[str, str] = {}

    @property
    def content(self) -> str:
        """SHA-256 that stands for every byte of every shard."""
        return digest([shard.sha256 for shard in self.shards])

    def faults(self, folder: Path) -> list[str]:
        """What is wrong with the files, a line each; every byte of them is read."""
        faults = [fault for shard in self.shards if (fault := shard.fault(folder))]
        for name, sha256 in self.files.items():
            if not (folder / name).is_file():
                faults.append(f"{name} is missing")
            elif hash_file(folder / name) != sha256:
                faults.append(f"{name} has changed: its SHA-256 is not the recorded one")
        return faults


class Parts:
    """The records of the shards that an unfinished run has already made, in `folder/.parts`.

    Raises:
        TetherError: where the folder holds the beginning of a run with other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder / PARTS
        self.folder.mkdir(parents=True, exist_ok=True)
        begun = _read_json(self.folder / "settings.json")
        if begun is not None and begun != settings:
            raise TetherError(
                f"{folder} holds an unfinished run with {difference(begun, settings)}: "
                "give the same settings, another folder, or delete it"
            )
        if begun is None:
            write_json(self.folder / "settings.json", settings)

    def load(self, number: int) -> dict[str, Any] | None:
        """The record of a shard, or None where there is none (or a torn one)."""
        return _read_json(self.folder / f"{number:05d}.json")

    def save(self, number: int, record: dict[str, Any]) -> None:
        """Keeps the record of a shard; call it once the shard's file is whole."""
        write_json(self.folder / f"{number:05d}.json", record)

    @staticmethod
    def clear(folder: Path) -> None:
        """Removes the records of a run that is finished, and what was half written."""
        shutil.rmtree(folder / PARTS, ignore_errors=True)
        for path in folder.glob("*.part"):
            path.unlink(missing_ok=True)


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` make a file and puts it at `path`, whole or not at all.

    Raises:
        TetherError: in one line, when the disk is full or the folder cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        _flush(part)
        os.replace(part, path)
        _flush(path.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise TetherError(f"{path} cannot be written: {error.strerror or error}; what was finished is kept") from None


def _flush(path: Path) -> None:
    """Waits until a file, or a folder's list of files, is on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON with sorted keys, whole or not at all."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    # A file's name need not be UTF-8: what is not becomes \udcXX, which JSON reads as what it was.
    write_file(path, lambda part: part.write_text(text, encoding="utf-8", errors="backslashreplace"))


def _read_json(path: Path) -> Any | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes `folder/manifest.json` with a checksum of itself, and clears what the run has left behind."""
    plain = manifest.model_dump(mode="json")
    write_json(folder / MANIFEST, plain | {"sha256": digest(plain)})
    Parts.clear(folder)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a finished folder, or None where there is none (or one that is not Tether's).

    Raises:
        TetherError: where the manifest is damaged or was changed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    plain = _read_json(path)
    if isinstance(plain, dict) and "sha256" not in plain:  # another program's: the folder may be anything
        return None
    told = plain.pop("sha256", None) if isinstance(plain, dict) else None
    if plain is None or told != digest(plain):
        raise TetherError(f"{path} is damaged or was changed by hand: delete {folder} and make it again")
    try:
        return Manifest(**plain)
    except ValidationError as error:
        raise TetherError(f"{path} is of another version ({error.error_count()} differences): make it again") from None


def difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The settings in which two runs differ, in words."""
    keys = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    return ", ".join(f"{key} {old.get(key)!r} instead of {new.get(key)!r}" for key in keys)


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, in hexadecimal digits; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
