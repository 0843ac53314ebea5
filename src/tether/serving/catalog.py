"""Names -> models. A request names a model; where it is kept is known here alone.

A name is that of a file without its suffix, or of a folder, in one of the folders that the operator lists. What is not
in the table is refused, so that a request cannot name a path, a repository or an address.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from tether.errors import TetherError
from tether.files.folder import NOTES, read_json
from tether.files.paths import SUFFIXES
from tether.kinds import guess_kind
from tether.serving.settings import Models
from tether.weights import SHIPPED_BASE, shipped_controls

__all__ = ["SHIPPED_BASE", "Catalog", "Entry"]

NOUNS = {"bases": "base", "controls": "control", "vaes": "autoencoder", "loras": "LoRA", "embeddings": "embedding"}
"""What a table holds, for messages."""


@dataclass(frozen=True)
class Entry:
    """One model.

    Attributes:
        name: what a request calls it.
        ref: what `load_base`, `load_control`, ... open.
        kind: of a control, the kind of its conditions, if its files or its name say it.
    """

    name: str
    ref: str
    kind: str | None = None

    @property
    def shipped(self) -> bool:
        """Whether it is of the package; the operator's are paths."""
        return self.ref == self.name


class Catalog:
    """The models of a server. Folders are read at each call, so that a model that is added is there.

    Args:
        models: the operator's folders.

    Raises:
        TetherError: when one of them is not a folder.
    """

    def __init__(self, models: Models) -> None:
        self._models = models
        for what in NOUNS:
            for folder in getattr(models, what):
                if not folder.is_dir():
                    raise TetherError(f"--{what} {folder} is not a folder: expected a folder of models")

    def entries(self, what: str) -> dict[str, Entry]:
        """The models of a table ("bases", "controls", "vaes", "loras", "embeddings") by name.

        The shipped ones come first, then the operator's, in order of name; the first of a name counts.
        """
        found: dict[str, Entry] = {}
        if what == "bases":
            found[SHIPPED_BASE] = Entry(SHIPPED_BASE, SHIPPED_BASE)
        if what == "controls":
            found |= {kind: Entry(kind, kind, kind) for kind in shipped_controls()}
        for name, path in _models(getattr(self._models, what)):
            kind = _kind(path, name) if what == "controls" else None
            found.setdefault(name, Entry(name, str(path), kind))
        return found

    def find(self, what: str, name: str) -> Entry:
        """A model by its name.

        Raises:
            TetherError: when there is none of that name.
        """
        entries = self.entries(what)
        if name not in entries:
            close = get_close_matches(name[:80], entries, n=1)
            instead = f"did you mean {close[0]}?" if close else f"there are {', '.join(entries) or 'none'}"
            raise TetherError(f"no {NOUNS[what]} {name[:80]!r} here: {instead}")
        return entries[name]

    def locate(self, what: str, name: str) -> str:
        """What a name is opened from; for `tether.sampling.Session`.

        Raises:
            TetherError: as `find`.
        """
        return self.find(what, name).ref

    def without_paths(self, line: str) -> str:
        """A message with names in place of the paths of models: where they are kept is not a client's business."""
        named = {entry.ref: entry.name for what in NOUNS for entry in self.entries(what).values()}
        for ref in sorted((ref for ref in named if "/" in ref or "\\" in ref), key=len, reverse=True):
            line = line.replace(ref, named[ref])
        for what in NOUNS:
            for folder in getattr(self._models, what):
                line = line.replace(str(folder), what)
        return line


def _models(folders: Iterable[Path]) -> Iterable[tuple[str, Path]]:
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_dir():
                yield path.name, path.absolute()
            elif path.suffix in SUFFIXES:
                yield path.stem, path.absolute()


def _kind(path: Path, name: str) -> str | None:
    """The kind of a control from its notes or its name, without opening its weights."""
    try:
        noted = read_json(path / NOTES).get("kind") if (path / NOTES).is_file() else None
    except TetherError:
        noted = None
    return noted if isinstance(noted, str) else guess_kind(name)
