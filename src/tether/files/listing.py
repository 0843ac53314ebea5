"""The images in a folder, by the names of their files. Nothing is opened, and nothing heavy imported."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["IMAGE_SUFFIXES", "image_names", "is_image", "visible_files"]

IMAGE_SUFFIXES = (
    "png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif",
    "jfif", "jpe", "dib", "ppm", "pgm", "pbm", "pnm", "tga", "avif",
)  # fmt: skip
"""Files that are read as images. Each is a format of `tether.images.read.FORMATS`."""


def image_names(folder: Path, without: Path | None = None) -> list[str]:
    """The images in a folder and below it, sorted: their names from the folder on, with "/" between.

    Hidden files and folders are left out; linked folders are followed, each once.

    Args:
        folder: the folder.
        without: a folder whose files do not count, such as that of the results; one above the folder leaves out none.
    """
    left_out = None if without is None else without.resolve()
    if left_out in folder.resolve().parents:
        left_out = None
    found = [
        path.relative_to(folder).as_posix()
        for path in visible_files(folder)
        if is_image(path) and (left_out is None or left_out not in path.resolve().parents)
    ]
    return sorted(found)


def visible_files(folder: Path) -> Iterator[Path]:
    """The files in a folder and below it, without hidden files and folders. Linked folders are followed, each once."""
    linked = [folder]
    seen: set[str] = set()
    while linked:
        for place, folders, files in os.walk(linked.pop(0)):
            where = Path(place)
            if (real := os.path.realpath(where)) in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            linked += [where / name for name in folders if (where / name).is_symlink()]
            yield from (where / name for name in sorted(files) if not name.startswith(".") and (where / name).is_file())


def is_image(path: Path) -> bool:
    """Whether a path is a file with an image's suffix, and not hidden."""
    return path.suffix[1:].lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
