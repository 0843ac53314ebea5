"""Opens a source by its path or name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from tether.datasets.names import CONDITION_NAMES, Reading, normal
from tether.datasets.source import Source
from tether.datasets.sources.folder import FolderSource
from tether.datasets.sources.parquet import ParquetSource
from tether.datasets.sources.records import RECORD_FILES, RecordSource, names_images, record_source
from tether.datasets.sources.tar import TAR_SUFFIXES, TarSource
from tether.datasets.synthetic.builtin import BUILTIN, builtin_source
from tether.errors import TetherError
from tether.files.listing import is_image, visible_files

__all__ = ["BUILTIN", "open_source"]

Make = Callable[[list[Path], Path, Reading], Source]
"""(files, the folder they were looked for in, reading) -> their source."""


def _promptfile(paths: list[Path], root: Path, reading: Reading) -> Source:
    return record_source(paths, root, reading, "promptfile")


LAYOUTS: tuple[tuple[tuple[str, ...], Make], ...] = (
    (("prompt.json",), _promptfile),
    (("metadata.jsonl",), record_source),
    (("metadata.csv", "metadata.tsv"), record_source),
    (("metadata.json",), record_source),
    (tuple(f"*{suffix}" for suffix in TAR_SUFFIXES), TarSource),
    (("*.parquet",), ParquetSource),
)
"""File patterns, in the order they are looked for, and the reader for such files."""

_EXPECTED = "images with captions beside them, metadata.jsonl or .csv, prompt.json, WebDataset tars or parquet files"


def open_source(
    ref: str | Path, *, size: int = 512, count: int | None = None, reading: Reading | None = None
) -> Source:
    """Opens a source of samples.

    Args:
        ref: "emoji3d", "scenes" or "circles"; or a folder of images with captions beside them, or with
            `metadata.jsonl` (or `.csv`), `prompt.json`, WebDataset tars or parquet files in it; or one such file.
        size: side of the images that the built-in sets draw.
        count: how many they draw; by default their own number. Other sources give all they have.
        reading: how the source's names are read.

    Raises:
        TetherError: if the source does not exist or is empty, pyarrow is needed and missing, or something in it looks
            like conditions and would not be used.
    """
    reading = reading or Reading()
    if str(ref) in BUILTIN:
        if named := ", ".join(reading.given()):
            raise TetherError(
                f"{ref} is drawn by the package, and has no columns, folders or splits: leave {named} out"
            )
        return builtin_source(str(ref), size, count)
    if count is not None:
        raise TetherError(f"count applies only to {', '.join(BUILTIN)}; {ref} gives all its samples: leave count out")
    path = Path(ref)
    if not path.exists():
        raise TetherError(f"source {ref} does not exist: give a folder, a file, or one of {', '.join(BUILTIN)}")
    source = _open(path, reading)
    if isinstance(source, RecordSource):
        beside = [path] if path.is_dir() else [p for p in path.parent.iterdir() if normal(p.name) in CONDITION_NAMES]
        images = (file for folder in beside for file in visible_files(folder) if is_image(file))
        source.leave_out_unnamed(images, path if path.is_dir() else path.parent)
    if len(source) == 0:
        rest = ", ".join(f"{number} {what}" for what, number in source.left_out.items())
        found = f" (left out: {rest})" if rest else ""
        raise TetherError(f"{ref} contains no samples{found}: expected {_EXPECTED}")
    return source


def _open(path: Path, reading: Reading) -> Source:
    """The first layout whose files are present."""
    root = path if path.is_dir() else path.parent
    for patterns, make in LAYOUTS:
        if found := _find(path, patterns):
            _refuse_hidden(path, found, are_archives=patterns[0].startswith("*"))
            return make(found, root, reading)
    if path.is_file() and path.suffix.lower() in RECORD_FILES:
        return record_source([path], root, reading)
    if path.is_dir():
        records = (file for file in sorted(path.iterdir()) if file.suffix.lower() in RECORD_FILES)
        if found := [file for file in records if _is_shown(file, path) and names_images(file, reading)]:
            return record_source(found, root, reading)
        return FolderSource(path, reading)
    raise TetherError(
        f"{path} is not a supported source: give a folder, or a .tar, .parquet, .jsonl, .csv or prompt.json file"
    )


def _find(path: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Files that match a pattern: the path itself, or in the folder, or below it.

    Archives below count only in a folder without images, so that a stray archive does not hide the images.
    """
    if not path.is_dir():
        return [path] if any(path.match(pattern) for pattern in patterns) else []
    if found := _matching(path, patterns, path.glob):
        return found
    is_archive = patterns[0].startswith("*")
    if is_archive and any(map(is_image, path.rglob("*"))):
        return []
    return _matching(path, patterns, path.rglob)


def _matching(root: Path, patterns: tuple[str, ...], search: Callable[[str], Iterable[Path]]) -> list[Path]:
    return sorted(file for pattern in patterns for file in search(pattern) if _is_shown(file, root))


def _is_shown(path: Path, root: Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(root).parts)


def _refuse_hidden(path: Path, found: list[Path], *, are_archives: bool) -> None:
    """Raises a TetherError when reading the files found would hide images in the folder itself, which have captions."""
    if not path.is_dir() or (path == found[0].parent and not are_archives):
        return
    images = (file for file in path.iterdir() if is_image(file))
    if any(file.with_suffix(ending).is_file() for file in images for ending in (".txt", ".caption", ".json")):
        name = found[0].relative_to(path).as_posix()
        raise TetherError(
            f"{path} has images with captions, and also {name}, which would be read in their place: move one of them "
            f"to another folder, or give {found[0]} itself"
        )
