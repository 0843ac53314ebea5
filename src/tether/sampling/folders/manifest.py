"""What a folder of pictures was drawn from: `manifest.jsonl`, a line of JSON a picture.

A line is added, and is on disk, as soon as its picture is; the last line of a picture counts. A run that ends replaces
the file by one with one line a picture, by the names of the images.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from tether.errors import TetherError
from tether.files.atomic import make_folder, write_text

__all__ = ["MANIFEST", "Entry", "Manifest"]

MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class Entry:
    """One picture.

    Attributes:
        input: the name of the image.
        output: the name of the picture.
        state: "drawn" or "failed".
        request: SHA-256 of what it is drawn from: the settings, the prompt, the seed, the bytes of the images, the
            fingerprints of models that are files. Of one that failed, that of the picture which is there.
        seed, prompt: of the picture.
        sha256: of the picture's file.
        error: why it failed.
    """

    input: str
    output: str
    state: Literal["drawn", "failed"]
    request: str = ""
    seed: int = 0
    prompt: str = ""
    sha256: str = ""
    error: str = ""

    def line(self) -> str:
        """As a line of JSON; bytes of names that are not UTF-8 stay what they are."""
        kept = {name: value for name, value in asdict(self).items() if value != ""}
        return json.dumps(kept) + "\n"


class Manifest:
    """The manifest of a folder.

    Args:
        folder: the folder of the pictures; it need not exist.

    Raises:
        TetherError: when the file there is not a manifest.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / MANIFEST
        self.entries: dict[str, Entry] = {}
        self._ends = True
        for entry in self._read():
            self.entries[entry.output] = entry

    def _read(self) -> Iterable[Entry]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            raise TetherError(f"{self.path} cannot be read: {error}") from None
        self._ends = text.endswith("\n") or not text
        lines = text.splitlines()
        for number, line in enumerate(lines, 1):
            entry = _entry(line)
            if entry is not None:
                yield entry
            elif number < len(lines) or self._ends:  # a killed run may leave half of the last line
                raise TetherError(f"{self.path}, line {number}, is not of a manifest: give another --out, or move it")

    def add(self, entry: Entry) -> None:
        """Adds a line; it is on disk when this returns.

        Raises:
            TetherError: when it cannot be written.
        """
        make_folder(self.path.parent)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(("" if self._ends else "\n") + entry.line())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise TetherError(f"{self.path} cannot be written: {error.strerror}") from None
        self._ends = True
        self.entries[entry.output] = entry

    def close(self) -> None:
        """Replaces the file by one with one line a picture, sorted.

        Raises:
            TetherError: when it cannot be written.
        """
        ordered = sorted(self.entries.values(), key=lambda entry: (entry.input, entry.output))
        if ordered:
            write_text(self.path, "".join(entry.line() for entry in ordered))


_NAMES = {one.name for one in fields(Entry)}


def _entry(line: str) -> Entry | None:
    """The entry of a line; None if it is none. Keys that are not known here are left out."""
    try:
        values = json.loads(line)
        entry = Entry(**{name: value for name, value in values.items() if name in _NAMES})
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    texts = all(isinstance(value, str) for name, value in asdict(entry).items() if name != "seed")
    return entry if texts and isinstance(entry.seed, int) and entry.state in ("drawn", "failed") else None
