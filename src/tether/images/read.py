"""Files -> 8-bit RGB images.

Reading takes what people have (16 bits, CMYK, palettes, transparency, animations, EXIF rotation) and gives 8-bit RGB,
or one line that says what is wrong. Sizes are read from the header before anything is decoded.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

import numpy as np
from PIL import Image, ImageCms, features

from tether.errors import TetherError

__all__ = ["MAX_TEXT", "Background", "open_image", "read_metadata", "to_rgb"]

_AVIF = ("AVIF",) if "avif" in features.modules and features.check("avif") else ()
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", *_AVIF)
Background = Literal["white", "black"]
MAX_TEXT = 64 * 2**20
"""Bytes of text in a PNG; Pillow opens none with more."""
MAX_PIXELS = 178_000_000
"""Images with more pixels than this are refused (Pillow's own limit is a little above); a header that claims more
costs nothing."""
WORKING_SIDE = 8192
"""The longest side of an image after reading; larger ones are reduced."""

_BEGINNINGS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"RIFF")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by EXIF orientation."""


def open_image(source: Path | str | IO[bytes], *, background: Background = "white") -> Image.Image:
    """Reads an image as 8-bit RGB, upright.

    EXIF rotation is applied; 16-bit and float grays are scaled to 8 bits; CMYK is converted; transparency is composited
    onto the background, which is white for images and black for condition maps; of an animation the first frame is
    taken. A longest side above 8,192 is reduced to that.

    Raises:
        TetherError: in one line, for a file that is missing, empty, damaged, of an unsupported format, or larger than
            178 megapixels.
    """
    name = str(source) if isinstance(source, (str, Path)) else "the image"
    if isinstance(source, (str, Path)):
        _check_file(Path(source))
    with _one_line_errors(name, source), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd metadata, and about sizes that are allowed here
        with Image.open(source, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.width}x{image.height} pixels"
                raise TetherError(f"{name} has {size}: the limit is {MAX_PIXELS // 10**6} million")
            upright = _read(image, background)
            upright.info.clear()  # a profile or comment would be written into every PNG made of it
            return upright


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise TetherError(f"{path} is a folder: expected an image file")
    if not path.exists():
        raise TetherError(f"there is no file {path}: check the path")
    if path.stat().st_size == 0:
        raise TetherError(f"{path} is empty: expected an image file")


@contextmanager
def _one_line_errors(name: str, source: Path | str | IO[bytes]) -> Iterator[None]:
    """Turns what Pillow raises for a bad file into a `TetherError` of one line."""
    try:
        yield
    except Image.DecompressionBombError:
        raise TetherError(f"{name} is too large: the limit is {MAX_PIXELS // 10**6} million pixels") from None
    except Image.UnidentifiedImageError:
        if _starts_like_an_image(source):
            raise TetherError(f"{name} is damaged or cut off") from None
        raise TetherError(f"{name} is not a supported image format: use {', '.join(FORMATS)}") from None
    except PermissionError:
        raise TetherError(f"{name} cannot be read: check its permissions") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        line = (str(error).splitlines() or ["unreadable"])[0]
        raise TetherError(f"{name} is damaged or cut off: {line}") from None


def _starts_like_an_image(source: Path | str | IO[bytes]) -> bool:
    if isinstance(source, (str, Path)):
        with Path(source).open("rb") as file:
            return file.read(4).startswith(_BEGINNINGS)
    source.seek(0)
    return source.read(4).startswith(_BEGINNINGS)


def _read(image: Image.Image, background: Background) -> Image.Image:
    """Decodes an opened image and turns it into upright 8-bit RGB of at most the working size."""
    if image.format == "JPEG":
        image.draft(None, (WORKING_SIDE, WORKING_SIDE))
    sixteen = image.mode.startswith("I;16") or (image.format == "PPM" and image.mode == "I")
    image.seek(0)
    image.load()
    if max(image.size) > WORKING_SIDE and image.mode not in ("P", "1"):
        # In one step: the reduction that Pillow does first by default does not support 16 bits.
        image.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BOX, reducing_gap=None)
    turn = _TURNS.get(_orientation(image))
    image = _gray_to_rgb(image, sixteen) if sixteen else to_rgb(image, background)
    if max(image.size) > WORKING_SIDE:
        image.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BOX)
    return image.copy() if turn is None else image.transpose(turn)  # either way independent of the file


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1, upright, when it cannot be read. All other tags are ignored."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except (TypeError, ValueError, AttributeError, KeyError, OSError, SyntaxError, struct.error):
        return 1


def to_rgb(image: Image.Image, background: Background = "white") -> Image.Image:
    """Any PIL image as 8-bit RGB of the same size.

    16-bit and float grays are scaled to 8 bits; CMYK is converted; transparency is composited onto the background.
    """
    transparent = "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La")
    if image.mode == "RGB" and not transparent:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _gray_to_rgb(image, image.mode.startswith("I;16"))
    if image.mode == "CMYK":
        return _cmyk_to_rgb(image)
    if transparent:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    return image.convert("RGB")


def _gray_to_rgb(image: Image.Image, sixteen: bool) -> Image.Image:
    """Grays of more than 8 bits: 16-bit integers times 1/257, floats in [0, 1] times 255, others by their own range."""
    values = np.asarray(image).astype(np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    top = values.max(initial=0.0)
    full = 65535.0 if sixteen or top > 255 else 1.0 if image.mode == "F" and top <= 1 else 255.0
    scaled = np.clip(values / max(full, top if top > full else full) * 255 + 0.5, 0, 255).astype(np.uint8)
    return Image.fromarray(scaled).convert("RGB")


def _cmyk_to_rgb(image: Image.Image) -> Image.Image:
    """By the embedded profile if it is valid, else by R = 255 (1 - C)(1 - K)."""
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass
    return image.convert("RGB")


def read_metadata(path: Path | str) -> dict[str, str]:
    """The text that `save_png` wrote into a PNG; empty when there is none.

    Raises:
        TetherError: when the file cannot be read as a PNG.
    """
    open_image(path)
    with Path(path).open("rb") as file:
        if file.read(8) != b"\x89PNG\r\n\x1a\n":
            raise TetherError(f"{path} is not a PNG")
    with Image.open(path, formats=["PNG"]) as image:
        image.load()
        return {k: str(v) for k, v in getattr(image, "text", {}).items() if len(v) <= MAX_TEXT}
