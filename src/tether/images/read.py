"""Files -> 8-bit images.

Reading takes what people have (16 bits, CMYK, palettes, animations, EXIF rotation) and gives 8-bit RGB, with alpha
(RGBA) if anything is transparent, or one line that says what is wrong. Sizes are read from the header before anything
is decoded.

What transparency means depends on the role of an image, so it is kept until the role is known: photographs lie on white
(`to_rgb`), condition maps on black (`to_rgb(image, "black")`), and of a mask it is part (`tether.images.to_mask`).
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

import numpy as np
from PIL import Image, ImageCms, features

from tether.errors import TetherError

__all__ = [
    "FORMATS",
    "MAX_TEXT",
    "WEB_FORMATS",
    "Background",
    "image_size",
    "is_transparent",
    "open_image",
    "read_metadata",
    "to_rgb",
    "to_rgba",
    "working_size",
]

_AVIF = ("AVIF",) if "avif" in features.modules and features.check("avif") else ()
WEB_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", *_AVIF)
"""What browsers show, all decoded by C libraries."""
FORMATS = (*WEB_FORMATS, "BMP", "DIB", "TIFF", "PPM", "TGA")
"""In the order in which they are tried: first those of the web, so that a file that is one of them is read as that
wherever it is read; last TGA, which has no beginning of its own, so that a file of another format may also be one."""
Background = Literal["white", "black"]
MAX_TEXT = 64 * 2**20
"""Bytes of text in a PNG; Pillow opens none with more."""
MAX_PIXELS = 178_000_000
"""Images with more pixels than this are refused (Pillow's own limit is a little above); a header that claims more
costs nothing."""
WORKING_SIDE = 8192
"""The longest side of an image after reading; larger ones are reduced."""

_BEGINNINGS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"RIFF")
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, RuntimeError, struct.error, zlib.error)
"""What Pillow raises for a damaged file; its decoder of AVIF a RuntimeError."""
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


def _never(image: Image.Image) -> bool:
    return False


def open_image(
    source: Path | str | IO[bytes],
    *,
    background: Background | None = None,
    whole: Callable[[Image.Image], bool] = _never,
    deep: bool = False,
    formats: Sequence[str] = FORMATS,
) -> Image.Image:
    """Reads an image, upright: 8-bit RGB, or RGBA if anything in it is transparent.

    EXIF rotation is applied; 16-bit and float grays are scaled to 8 bits; CMYK is converted; of an animation the first
    frame is taken. A longest side above 8,192 is reduced to that.

    Args:
        source: a file, or its path.
        background: what transparency is composited onto, so that the result is RGB: white for photographs, black for
            condition maps.
        whole: of the decoded image, whether it keeps its size, however large; by default none does.
        deep: whether an opaque gray of 16 bits stays one, of mode "I;16".
        formats: names of Pillow's that it may have.

    Raises:
        TetherError: in one line, for a file that is missing, empty, damaged, of an unsupported format, or larger than
            178 megapixels.
    """
    name = str(source) if isinstance(source, (str, Path)) else "the image"
    if isinstance(source, (str, Path)):
        _check_file(Path(source))
    with _one_line_errors(name, source, formats), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd metadata, and about sizes that are allowed here
        with Image.open(source, formats=tuple(formats)) as image:
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.width}x{image.height} pixels"
                raise TetherError(f"{name} has {size}: the limit is {MAX_PIXELS // 10**6} million")
            upright = _read(image, background, whole, deep)
            upright.info.clear()  # a profile or comment would be written into every PNG made of it
            return upright


def image_size(source: Path | IO[bytes]) -> tuple[int, int] | None:
    """Width and height of an image, upright, from its header; None if it has none."""
    try:
        with Image.open(source) as image:
            width, height = image.size
            stored = getattr(image, "tag_v2", None)  # of a TIFF, whose size some versions of Pillow have turned already
            if stored:
                width, height = int(stored[256]), int(stored[257])
            return (height, width) if _orientation(image) >= 5 else (width, height)
    except (*_DAMAGED, Image.DecompressionBombError):
        return None


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise TetherError(f"{path} is a folder: expected an image file")
    if not path.exists():
        raise TetherError(f"there is no file {path}: check the path")
    if not path.is_file():
        raise TetherError(f"{path} is a pipe or device: expected an image file")
    if path.stat().st_size == 0:
        raise TetherError(f"{path} is empty: expected an image file")


@contextmanager
def _one_line_errors(name: str, source: Path | str | IO[bytes], formats: Sequence[str]) -> Iterator[None]:
    """Turns what Pillow raises for a bad file into a `TetherError` of one line."""
    try:
        yield
    except Image.DecompressionBombError:
        raise TetherError(f"{name} is too large: the limit is {MAX_PIXELS // 10**6} million pixels") from None
    except Image.UnidentifiedImageError:
        if _starts_like_an_image(source):
            raise TetherError(f"{name} is damaged or cut off") from None
        raise TetherError(f"{name} is not a supported image format: use {', '.join(formats)}") from None
    except PermissionError:
        raise TetherError(f"{name} cannot be read: check its permissions") from None
    except _DAMAGED as error:
        line = (str(error).splitlines() or ["unreadable"])[0]
        raise TetherError(f"{name} is damaged or cut off: {line}") from None


def _starts_like_an_image(source: Path | str | IO[bytes]) -> bool:
    if isinstance(source, (str, Path)):
        with Path(source).open("rb") as file:
            return file.read(4).startswith(_BEGINNINGS)
    source.seek(0)
    return source.read(4).startswith(_BEGINNINGS)


def working_size(size: tuple[int, int]) -> tuple[int, int]:
    """The size of an image after reading: with the same aspect ratio, at most 8,192 a side."""
    scale = min(1.0, WORKING_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _read(
    image: Image.Image, background: Background | None, whole: Callable[[Image.Image], bool], deep: bool
) -> Image.Image:
    """Decodes an opened image and turns it into upright 8-bit RGB or RGBA, of at most the working size unless `whole`
    says otherwise."""
    if image.format == "JPEG":
        image.draft(None, (WORKING_SIDE, WORKING_SIDE))
    sixteen = image.mode.startswith("I;16") or (image.format == "PPM" and image.mode == "I")
    image.seek(0)
    _scale_transparent_level(image)
    image.load()
    reduced = max(image.size) > WORKING_SIDE and not whole(image)
    if reduced and image.mode not in ("P", "1"):
        image = image.resize(working_size(image.size), Image.Resampling.BOX)
    turn = _TURNS.get(_orientation(image))
    if deep and sixteen and not is_transparent(image):
        gray = Image.fromarray(np.asarray(image).clip(0, 65535).astype(np.uint16))
        return gray if turn is None else gray.transpose(turn)
    image = _to_8_bits(image, sixteen)
    image = image if image.mode == "RGB" or background is None else to_rgb(image, background)
    if reduced and max(image.size) > WORKING_SIDE:
        image = image.resize(working_size(image.size), Image.Resampling.BOX)
    return image.copy() if turn is None else image.transpose(turn)  # either way independent of the file


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1, upright, when it cannot be read. All other tags are ignored."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except (TypeError, ValueError, AttributeError, KeyError, OSError, SyntaxError, struct.error):
        return 1


def _scale_transparent_level(image: Image.Image) -> None:
    """The transparent gray level of a PNG of fewer than 8 bits, scaled to 8 bits as Pillow scales the pixels."""
    level, tiles = image.info.get("transparency"), getattr(image, "tile", None)
    raw = tiles[0].args if tiles else None
    if isinstance(level, int) and isinstance(raw, str) and raw in _FEW_BITS:
        image.info["transparency"] = level * _FEW_BITS[raw]


_FEW_BITS = {"L;2": 85, "L;4": 17}
"""Pillow's names of gray levels of few bits, and the 8-bit level of their 1."""


def is_transparent(image: Image.Image) -> bool:
    """Whether an image carries transparency of any form: alpha, or a transparent color."""
    return "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La")


def to_rgba(image: Image.Image) -> Image.Image:
    """Any PIL image as 8-bit RGBA of the same size; grays of more bits and CMYK as in `to_rgb`."""
    key = image.info.get("transparency")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        rgba = _gray_to_rgb(image, image.mode.startswith("I;16")).convert("RGBA")
        if isinstance(key, int):
            rgba.putalpha(Image.fromarray(np.asarray(image) != key).convert("L"))
        return rgba
    if image.mode == "CMYK":
        return _cmyk_to_rgb(image).convert("RGBA")
    if image.mode == "1" and isinstance(key, int):  # Pillow 11 compares a key of 1 with levels of 255
        white = np.asarray(image)
        rgba = Image.fromarray(white.astype(np.uint8) * 255).convert("RGBA")
        rgba.putalpha(Image.fromarray((white != bool(key)).astype(np.uint8) * 255))
        return rgba
    if image.mode == "La":
        image = image.convert("LA")
    if isinstance(key, tuple) and max(key) > 255:  # of a PNG of 16 bits, whose pixels Pillow has reduced to 8
        image = image.copy()
        image.info["transparency"] = tuple(level >> 8 for level in key)
    return image.convert("RGBA")


def to_rgb(image: Image.Image, background: Background = "white") -> Image.Image:
    """Any PIL image as 8-bit RGB of the same size.

    16-bit and float grays are scaled to 8 bits; CMYK is converted; transparency is composited onto the background,
    which is white for photographs and black for condition maps.
    """
    if is_transparent(image):
        image = to_rgba(image)
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _gray_to_rgb(image, image.mode.startswith("I;16"))
    if image.mode == "CMYK":
        return _cmyk_to_rgb(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bits(image: Image.Image, sixteen: bool) -> Image.Image:
    """Any PIL image as RGB, or RGBA if anything in it is transparent."""
    if is_transparent(image):
        rgba = to_rgba(image)
        return rgba if rgba.getextrema()[3][0] < 255 else rgba.convert("RGB")  # type: ignore[index]
    return _gray_to_rgb(image, sixteen) if sixteen else to_rgb(image)


def _gray_to_rgb(image: Image.Image, sixteen: bool) -> Image.Image:
    """Grays of more than 8 bits, as `_white` says."""
    values = np.asarray(image).astype(np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    white = _white(values, sixteen, image.mode == "F")
    scaled = np.clip(values / white * 255 + 0.5, 0, 255).astype(np.uint8)
    return Image.fromarray(scaled).convert("RGB")


def _white(values: np.ndarray, sixteen: bool, floats: bool) -> float:
    """The value that becomes 255: 65535 of 16 bits and of levels above 255, 255 of other levels. Floats are shares of
    1, where at most one in a hundred is larger; levels, if they are whole or reach far; else of their own range."""
    top = float(values.max(initial=0.0))
    whole = not floats or (top > 1 and (values == np.round(values)).all())
    if floats and not whole and np.percentile(values, 99) <= 1:
        return 1.0
    if sixteen or whole or 16 < top <= 255 or 4096 < top <= 65535:
        return max(top, 65535.0 if sixteen or top > 255 else 255.0)
    return top


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
            raise TetherError(f"{path} is not a PNG: only the PNGs that Tether writes carry their request")
    with Image.open(path, formats=["PNG"]) as image:
        image.load()
        return {k: str(v) for k, v in getattr(image, "text", {}).items() if len(v) <= MAX_TEXT}
