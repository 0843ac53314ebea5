"""Images -> PNG files."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, PngImagePlugin

from tether.errors import TetherError
from tether.files.atomic import atomic_write
from tether.images.read import MAX_TEXT

__all__ = ["save_png"]


def save_png(image: Image.Image, path: Path | str, metadata: dict[str, str] | None = None) -> None:
    """Writes a PNG atomically: `path` holds all of it, or what it held before.

    Args:
        image: the image.
        path: a name that ends in .png.
        metadata: texts by key, written as iTXt chunks.

    Raises:
        TetherError: in one line, when the name does not end in .png, the folder is missing, the disk is full, or the
            text is too long.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise TetherError(f"{path} cannot be written: the name must end in .png")
    info, length = PngImagePlugin.PngInfo(), 0
    for key, value in (metadata or {}).items():
        info.add_itxt(key, value)
        length += len(value.encode())
    if length > MAX_TEXT:
        raise TetherError(f"{path} cannot be written: its text has {length:,} bytes, the limit is {MAX_TEXT:,}")
    with atomic_write(path) as part:
        image.save(part, "PNG", pnginfo=info)
