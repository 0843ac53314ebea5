"""Images -> files."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, PngImagePlugin

from tether.errors import TetherError
from tether.files.atomic import atomic_write
from tether.images.read import MAX_TEXT

__all__ = ["save_image", "save_png"]


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


def save_image(image: Image.Image, path: Path | str, metadata: dict[str, str] | None = None) -> None:
    """Writes a PNG, JPEG or WebP, by its suffix, atomically.

    JPEG and WebP have quality 95; of the metadata they get "parameters" alone, as the EXIF comment in which A1111's web
    UI writes it. Only a PNG carries what an image is repeated from.

    Raises:
        TetherError: as `save_png`, and for another suffix.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".png":
        save_png(image, path, metadata)
        return
    if suffix not in _LOSSY:
        raise TetherError(f"{path} cannot be written: the name must end in .png, .jpg, .jpeg or .webp")
    exif = Image.Exif()
    text = (metadata or {}).get("parameters", "").encode("utf-16-be", "replace")
    if 0 < len(text) < _EXIF_MOST:
        exif[_EXIF_IFD] = {_USER_COMMENT: b"UNICODE\0" + text}
    with atomic_write(path) as part:
        image.save(part, _LOSSY[suffix], quality=95, exif=exif)


_LOSSY = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_EXIF_IFD, _USER_COMMENT, _EXIF_MOST = 0x8769, 0x9286, 65_000
"""Numbers of EXIF: the directory, the tag in it, and the bytes of a JPEG's segment."""
