"""The content of a folder of shards: its manifest, and the records with which an interrupted run continues.

Every file is written atomically (`tether.files.atomic`). A record of each finished
shard is kept in `OUT/.parts/`, so that a killed run continues after the last complete shard. Once all shards exist,
their records move into `OUT/manifest.json` and `.parts` is deleted.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tether.errors import TetherError
from tether.files.atomic import make_folder, remove_leftovers, write_text
from tether.files.hashing import hash_file

__all__ = [
    "Manifest",
    "Parts",
    "ShardRecord",
    "agree",
    "difference",
    "digest",
    "read_json",
    "read_manifest",
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
        """What is wrong with the shard's file, in one line; None if it is as recorded."""
        path = folder / self.name
        if not path.is_file():
            return f"{self.name} is missing"
        if path.stat().st_size != self.bytes:
            return f"{self.name} has {path.stat().st_size} bytes instead of {self.bytes}"
        if hash_file(path) != self.sha256:
            return f"{self.name} has changed: its SHA-256 differs from the recorded one"
        return None

    @classmethod
    def of(cls, path: Path, samples: int) -> ShardRecord:
        """The record of an existing file."""
        return cls(name=path.name, samples=samples, bytes=path.stat().st_size, sha256=hash_file(path))


class Manifest(BaseModel):
    """The content of a finished folder.

    Attributes:
        settings: everything that determines the content, format version included.
        samples: the number of samples.
        shards: one record a shard, in order.
        quarantined: the number of rejected samples, by reason.
        files: SHA-256 of the other files, by name: of `quarantine.jsonl`, which lists each rejected sample.
        conditions_from: where the source's own conditions were found, in words; empty if nowhere.
        left_out: what the source has and was not read: description -> number.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: dict[str, Any]
    samples: int
    shards: tuple[ShardRecord, ...]
    quarantined: dict[str, int] = {}
    files: dict[str, str] = {}
    conditions_from: str = ""
    left_out: dict[str, int] = {}

    @property
    def content(self) -> str:
        """SHA-256 over every shard's SHA-256."""
        return digest([shard.sha256 for shard in self.shards])

    def faults(self, folder: Path) -> list[str]:
        """What is wrong with the files, a line each; reads every byte of them."""
        faults = [fault for shard in self.shards if (fault := shard.fault(folder))]
        for name, sha256 in self.files.items():
            if not (folder / name).is_file():
                faults.append(f"{name} is missing")
            elif hash_file(folder / name) != sha256:
                faults.append(f"{name} has changed: its SHA-256 differs from the recorded one")
        return faults


class Parts:
    """The records of the shards that an unfinished run has completed, in `folder/.parts`.

    Raises:
        TetherError: if the folder contains an unfinished run with other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder / PARTS
        make_folder(self.folder)
        begun = read_json(self.folder / "settings.json")
        if begun is not None and not agree(begun, settings):
            raise TetherError(
                f"{folder} contains an unfinished run with {difference(begun, settings)}: "
                "give the same settings or another folder, or delete it"
            )
        if begun is None:
            write_json(self.folder / "settings.json", settings)

    def load(self, number: int) -> dict[str, Any] | None:
        """The record of a shard; None if it is missing or damaged."""
        return read_json(self.folder / f"{number:05d}.json")

    def save(self, number: int, record: dict[str, Any]) -> None:
        """Saves the record of a shard; call it once the shard's file is complete."""
        write_json(self.folder / f"{number:05d}.json", record)

    @staticmethod
    def clear(folder: Path) -> None:
        """Deletes the records of a finished run, and temporary files."""
        shutil.rmtree(folder / PARTS, ignore_errors=True)
        remove_leftovers(folder)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON with sorted keys, atomically."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    # File names need not be UTF-8: other bytes become \udcXX, which JSON reads back as the same bytes.
    write_text(path, text, errors="backslashreplace")


def read_json(path: Path) -> Any | None:
    """The value in a JSON file; None if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes `folder/manifest.json` with its own checksum, and deletes the records of the run."""
    plain = manifest.model_dump(mode="json")
    plain = {key: value for key, value in plain.items() if value or key not in ("conditions_from", "left_out")}
    write_json(folder / MANIFEST, plain | {"sha256": digest(plain)})
    Parts.clear(folder)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a finished folder; None if there is none, or it is another program's.

    Raises:
        TetherError: if the manifest is damaged or was changed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    plain = read_json(path)
    if isinstance(plain, dict) and "sha256" not in plain:  # another program's manifest
        return None
    recorded = plain.pop("sha256", None) if isinstance(plain, dict) else None
    if plain is None or recorded != digest(plain):
        raise TetherError(f"{path} is damaged or was edited: delete {folder} and build it again")
    try:
        return Manifest(**plain)
    except ValidationError as error:
        raise TetherError(f"{path} has another format ({error.error_count()} differences): build it again") from None


def agree(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether two runs have the same settings. Earlier versions did not record the content of a source's files."""
    return _compared(old, old) == _compared(new, old)


def difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The settings in which two runs differ: "size 512 instead of 256"."""
    old, new = _compared(old, old), _compared(new, old)
    keys = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    return ", ".join(
        _source_difference(old["source"], new["source"])
        if key == "source" and isinstance(old.get(key), dict) and isinstance(new.get(key), dict)
        else f"{key} {old.get(key)!r} instead of {new.get(key)!r}"
        for key in keys
    )


def _compared(settings: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """The settings, without what the older ones do not know."""
    source, known = settings.get("source"), old.get("source")
    if not isinstance(source, dict) or not isinstance(known, dict) or "content" in known:
        return settings
    return settings | {"source": {key: value for key, value in source.items() if key != "content"}}


def _source_difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    if old.get("kind") != new.get("kind"):
        return f"a source of another layout ({old.get('kind')} then, {new.get('kind')} now)"
    if old.get("samples") != new.get("samples"):
        return f"a source that has changed since ({old.get('samples')} samples then, {new.get('samples')} now)"
    what = "captions, names or sizes of files" if old.get("fingerprint") != new.get("fingerprint") else "images"
    return f"a source that has changed since (its {what} differ)"


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, in hexadecimal; independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
