"""Opens a source by its path or name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tether.datasets.source import Source
from tether.datasets.sources.folder import FolderSource, is_image
from tether.datasets.sources.parquet import ParquetSource
from tether.datasets.sources.records import metadata, promptfile
from tether.datasets.sources.tar import TarSource
from tether.datasets.synthetic.builtin import BUILTIN, builtin_source
from tether.errors import TetherError

__all__ = ["BUILTIN", "open_source"]

LAYOUTS: tuple[tuple[str, Callable[[list[Path]], Source]], ...] = (
    ("prompt.json", lambda found: promptfile(found[0])),
    ("metadata.jsonl", metadata),
    ("*.tar", TarSource),
    ("*.parquet", ParquetSource),
)
"""File patterns, in the order they are looked for, and the reader for such files."""


def open_source(ref: str | Path, *, size: int = 512, count: int | None = None) -> Source:
    """Opens a source of samples.

    Args:
        ref: "emoji3d", "scenes" or "circles"; or a folder of images with captions beside them, or with
            `metadata.jsonl`, `prompt.json`, WebDataset tars or parquet files in it; or one such file.
        size: side of the images that the built-in sets draw.
        count: how many they draw; by default their own number. Other sources give all they have.

    Raises:
        TetherError: if the source does not exist or is empty, or pyarrow is needed and missing.
    """
    if str(ref) in BUILTIN:
        return builtin_source(str(ref), size, count)
    if count is not None:
        raise TetherError(f"count applies only to {', '.join(BUILTIN)}; {ref} gives all its samples: leave count out")
    path = Path(ref)
    if not path.exists():
        raise TetherError(f"source {ref} does not exist: give a folder, a file, or one of {', '.join(BUILTIN)}")
    source = _open(path)
    if len(source) == 0:
        raise TetherError(
            f"{ref} contains no samples: expected images with captions beside them, metadata.jsonl, prompt.json, "
            "WebDataset tars or parquet files"
        )
    return source


def _open(path: Path) -> Source:
    """The first layout whose files are present."""
    for pattern, make in LAYOUTS:
        if found := _find(path, pattern):
            return make(found)
    if path.is_dir():
        return FolderSource(path)
    raise TetherError(
        f"{path} is not a supported source: give a folder, or a .tar, .parquet, metadata.jsonl or prompt.json file"
    )


def _find(path: Path, pattern: str) -> list[Path]:
    """Files that match a pattern: the path itself, or in the folder, or below it.

    Archives below count only in a folder without images, so that a stray archive does not hide the images.
    """
    if not path.is_dir():
        return [path] if path.match(pattern) else []
    if found := sorted(path.glob(pattern)):
        return found
    is_archive = not pattern.endswith((".json", ".jsonl"))
    if is_archive and any(map(is_image, path.rglob("*"))):
        return []
    return sorted(path.rglob(pattern))
