"""What a model's files are recognized by when they were moved or renamed.

    SIZE:DIGEST     SIZE in bytes, DIGEST the SHA-256 of a sample of the bytes

A model has gigabytes, and is asked for at every start: of a file, its size, its beginning (in a safetensors file the
names and shapes of its tensors) and 64 blocks spread over it are hashed. Two trainings of one network differ in all of
them. Whether what was found is the same to the last byte, only an image drawn with it tells. Sizes are compared first,
so that searching reads what has the right size alone.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from tether.files.paths import SUFFIXES

__all__ = ["find_model", "fingerprint", "named_alike"]

BEGINNING, BLOCK, BLOCKS = 65536, 4096, 64
MAX_DEPTH = 5
"""Levels of folders that are searched below a place; in the hub's cache a part's file is 4 below it."""
MAX_ENTRIES = 50_000
"""Files and folders that are looked at in one place, so that a home folder does not take minutes."""


def fingerprint(path: Path) -> str | None:
    """That of a file, or of all files of weights in a folder; None if there is nothing, or it cannot be read."""
    try:
        size = _size(path)
        return None if size is None else f"{size}:{_digest(path)}"
    except OSError:
        return None


def find_model(wanted: str, places: Iterable[Path]) -> Path | None:
    """The first file or folder in some places, or in folders below them, that has a fingerprint."""
    size = int(wanted.partition(":")[0])
    for place in places:
        for path in _models(place):
            try:
                if _size(path) == size and fingerprint(path) == wanted:
                    return path
            except OSError:
                continue
    return None


def named_alike(name: str, places: Iterable[Path]) -> list[Path]:
    """The models of a name in the first place that has any, each once."""
    for place in places:
        found = {path.resolve(): path for path in _models(place) if path.name == name}
        if found:
            return list(found.values())
    return []


def _models(place: Path) -> Iterator[Path]:
    """Files of weights and folders of models in a folder and below, nearest first; hidden folders are left out."""
    waiting, seen, left = deque([(place, 0)]), set(), MAX_ENTRIES
    while waiting and left > 0:
        folder, depth = waiting.popleft()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            key = folder.stat()
        except OSError:
            continue
        if (key.st_dev, key.st_ino) in seen:  # links may go around
            continue
        seen.add((key.st_dev, key.st_ino))
        left -= len(entries)
        if any(entry.name in ("model_index.json", "config.json") for entry in entries):
            yield folder
        yield from (Path(entry.path) for entry in entries if entry.name.lower().endswith(SUFFIXES) and _is_file(entry))
        if depth < MAX_DEPTH:
            inside = (entry for entry in entries if not entry.name.startswith(".") and _is_folder(entry))
            waiting.extend((Path(entry.path), depth + 1) for entry in inside)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _weights(folder: Path) -> list[Path]:
    """The files of weights in a folder and in those of its parts, by name."""
    found = [*folder.glob("*"), *folder.glob("*/*")]
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES and path.is_file())


def _size(path: Path) -> int | None:
    if not path.is_dir():
        return path.stat().st_size
    files = _weights(path)
    return sum(file.stat().st_size for file in files) if files else None


def _digest(path: Path) -> str:
    """SHA-256 of samples, in hexadecimal, its first half."""
    digest = hashlib.sha256()
    for file in _weights(path) if path.is_dir() else [path]:
        name = file.relative_to(path).as_posix() if path.is_dir() else ""  # a file itself may be renamed
        digest.update(f"{name}\n{file.stat().st_size}\n".encode("utf-8", "surrogateescape"))
        with file.open("rb") as opened:
            digest.update(opened.read(BEGINNING))
            size = file.stat().st_size
            for k in range(BLOCKS):
                opened.seek(max(0, size - BLOCK) * (k + 1) // BLOCKS)
                digest.update(opened.read(BLOCK))
    return digest.hexdigest()[:32]
