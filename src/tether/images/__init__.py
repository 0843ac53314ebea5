"""Files <-> pictures <-> tensors: the only place where uint8 RGB and files are handled.

Reading takes what people have (16 bits, CMYK, palettes, transparency, animations, EXIF rotation) and gives 8-bit RGB,
or one line that says what is wrong. Sizes are read from the header before anything is decoded.
"""

from __future__ import annotations

import os
import struct
import threading
import warnings
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal, get_args

import numpy as np
import torch
from PIL import Image, ImageCms, ImageDraw, ImageOps, PngImagePlugin
from torch import Tensor

from tether.errors import TetherError

__all__ = [
    "FitRule",
    "contact_sheet",
    "fit",
    "fit_condition",
    "from_pixels",
    "open_image",
    "read_metadata",
    "save_png",
    "to_condition",
    "to_pixels",
    "to_rgb",
]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA")
MAX_PIXELS = 178_000_000
"""Pictures with more pixels than this are refused (Pillow's own limit is a little above); a header that claims more
costs nothing."""
WORKING_SIDE = 8192
"""Larger pictures are reduced to this longest side on reading: nothing here works at more."""
MAX_TEXT = 64 * 2**20
"""Bytes of text in a PNG; Pillow opens none with more."""

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
"""What makes a picture upright, by EXIF's orientation."""

FitRule = Literal["stretch", "crop", "pad"]


def open_image(source: Path | str | IO[bytes]) -> Image.Image:
    """Reads a picture as 8-bit RGB, upright.

    EXIF rotation is applied; 16-bit and float greys are scaled to 8 bits; CMYK is converted; transparency is laid on
    white; of an animation the first frame is taken. A longest side above 8,192 is reduced to that.

    Raises:
        TetherError: in one line, for a file that is missing, empty, torn, no picture, or larger than 178 megapixels.
    """
    name = str(source) if isinstance(source, (str, Path)) else "the picture"
    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.is_dir():
            raise TetherError(f"{name} is a folder: give the file of a picture")
        if not path.exists():
            raise TetherError(f"there is no file {name}: check the path")
        if path.stat().st_size == 0:
            raise TetherError(f"{name} is empty: it holds no picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of sizes that are allowed here
            with Image.open(source, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    size = f"{image.width}x{image.height} pixels"
                    raise TetherError(f"{name} has {size}: at most {MAX_PIXELS // 10**6} million are read")
                upright = _read(image)
                upright.info.clear()  # a profile or comment would travel into every PNG made of it
                return upright
    except Image.DecompressionBombError:
        raise TetherError(f"{name} is too large: at most {MAX_PIXELS // 10**6} million pixels are read") from None
    except Image.UnidentifiedImageError:
        if _begins_as_a_picture(source):
            raise TetherError(f"{name} is damaged or cut off") from None
        raise TetherError(f"{name} is no picture of a known kind: use {', '.join(FORMATS)}") from None
    except PermissionError:
        raise TetherError(f"{name} may not be read: check its permissions") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        line = (str(error).splitlines() or ["unreadable"])[0]
        raise TetherError(f"{name} is damaged or cut off: {line}") from None


def _begins_as_a_picture(source: Path | str | IO[bytes]) -> bool:
    if isinstance(source, (str, Path)):
        with Path(source).open("rb") as file:
            return file.read(4).startswith(_BEGINNINGS)
    source.seek(0)
    return source.read(4).startswith(_BEGINNINGS)


def _read(image: Image.Image) -> Image.Image:
    """Decodes an opened image and turns it into upright 8-bit RGB of at most the working size."""
    if image.format == "JPEG":
        image.draft(None, (WORKING_SIDE, WORKING_SIDE))
    sixteen = image.mode.startswith("I;16") or (image.format == "PPM" and image.mode == "I")
    image.seek(0)
    image.load()
    if max(image.size) > WORKING_SIDE and image.mode not in ("P", "1"):
        # In one step: the reduction that comes first otherwise does not know 16 bits.
        image.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BOX, reducing_gap=None)
    turn = _TURNS.get(_orientation(image))
    image = _grey_to_rgb(image, sixteen) if sixteen else to_rgb(image)
    if max(image.size) > WORKING_SIDE:
        image.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BOX)
    return image.copy() if turn is None else image.transpose(turn)  # either is free of the file


def _orientation(image: Image.Image) -> int:
    """EXIF's; 1, upright, where that cannot be read. All its other tags may be what they like."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except (TypeError, ValueError, AttributeError, KeyError, OSError, SyntaxError, struct.error):
        return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as 8-bit RGB of the same size.

    16-bit and float greys are scaled to 8 bits; CMYK is converted; transparency is laid on white.
    """
    transparent = "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La")
    if image.mode == "RGB" and not transparent:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _grey_to_rgb(image, image.mode.startswith("I;16"))
    if image.mode == "CMYK":
        return _cmyk_to_rgb(image)
    if transparent:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _grey_to_rgb(image: Image.Image, sixteen: bool) -> Image.Image:
    """Greys of more than 8 bits: integers of 16 bits by 1/257, floats in [0, 1] by 255, others by their own range."""
    values = np.asarray(image).astype(np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    top = values.max(initial=0.0)
    full = 65535.0 if sixteen or top > 255 else 1.0 if image.mode == "F" and top <= 1 else 255.0
    scaled = np.clip(values / max(full, top if top > full else full) * 255 + 0.5, 0, 255).astype(np.uint8)
    return Image.fromarray(scaled).convert("RGB")


def _cmyk_to_rgb(image: Image.Image) -> Image.Image:
    """By the embedded profile where there is a good one, else by R = 255 (1 - C)(1 - K)."""
    profile = image.info.get("icc_profile")
    if profile:
        try:
            import io

            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass
    return image.convert("RGB")


def to_pixels(image: Image.Image) -> Tensor:
    """PIL -> float32 `(1, 3, H, W)` in [-1, 1]."""
    return to_condition(image) * 2 - 1


def to_condition(image: Image.Image) -> Tensor:
    """PIL -> float32 `(1, 3, H, W)` in [0, 1]."""
    array = np.array(to_rgb(image))
    return torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255


def from_pixels(pixels: Tensor) -> list[Image.Image]:
    """`(B, 3, H, W)` in [-1, 1] -> B RGB pictures; values outside are clipped. Undoes `to_pixels` exactly."""
    levels = ((pixels.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [Image.fromarray(one) for one in levels.permute(0, 2, 3, 1).cpu().numpy()]


def fit(
    image: Image.Image,
    width: int,
    height: int,
    rule: FitRule = "crop",
    *,
    pad_colour: tuple[int, int, int] = (255, 255, 255),
) -> Image.Image:
    """Brings a picture to a size.

    Args:
        image: any PIL image; what is not greyscale becomes RGB, by `to_rgb`.
        width, height: in pixels.
        rule: "stretch" changes the shape, "crop" cuts what stands over on the longer side, "pad" adds a border.
        pad_colour: of that border, RGB in 0..255: white for photos.

    Raises:
        TetherError: for an unknown rule.
    """
    if rule not in get_args(FitRule):
        raise TetherError(f"fit {rule!r} is unknown: choose one of {', '.join(get_args(FitRule))}")
    image = image if image.mode == "L" else to_rgb(image)
    if image.size == (width, height):
        return image
    if rule == "stretch":
        return _resize(image, width, height)
    if rule == "crop":
        # In one step: all of a long and narrow picture, resized before it is cut, would be enormous.
        return ImageOps.fit(image, (width, height), _filter(image, width, height))
    inner = inner_size(image, width, height)
    colour = pad_colour if image.mode == "RGB" else pad_colour[0]
    canvas = Image.new(image.mode, (width, height), colour)
    canvas.paste(_resize(image, *inner), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return canvas


def inner_size(image: Image.Image, width: int, height: int) -> tuple[int, int]:
    """Width and height that a picture has inside the border of "pad": the largest of its shape that fit."""
    scale = min(width / image.width, height / image.height)
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def fit_condition(image: Image.Image, width: int, height: int, rule: FitRule = "crop") -> Image.Image:
    """As `fit`, for condition images: padding is black, and lines survive.

    A map of only black and white stays one. Reduced by a factor f, a line of one pixel leaves 1/f of its brightness, so
    a pixel of the result is white from half of that on.
    """
    image = to_rgb(image)
    fitted = fit(image, width, height, rule, pad_colour=(0, 0, 0))
    if image.size == fitted.size or not _is_black_and_white(image):
        return fitted
    scales = width / image.width, height / image.height
    shrink = min(1.0, max(scales) if rule == "crop" else min(scales))
    table = [255 if level >= 127.5 * shrink else 0 for level in range(256)]
    return fitted.convert("L").point(table).convert("RGB")


def _is_black_and_white(image: Image.Image) -> bool:
    red, green, blue = image.split()
    return sum(red.histogram()[1:255]) == 0 and red.tobytes() == green.tobytes() == blue.tobytes()


def _resize(image: Image.Image, width: int, height: int) -> Image.Image:
    return image.resize((width, height), _filter(image, width, height))


def _filter(image: Image.Image, width: int, height: int) -> Image.Resampling:
    """By area when both sides shrink, so that nothing is skipped; else Lanczos."""
    shrinks = width <= image.width and height <= image.height
    return Image.Resampling.BOX if shrinks else Image.Resampling.LANCZOS


def save_png(image: Image.Image, path: Path | str, metadata: dict[str, str] | None = None) -> None:
    """Writes a PNG so that `path` holds the whole of it or what it held before.

    Raises:
        TetherError: in one line, when the name is no PNG's, the folder is missing, the disk is full, or the text is
            too long.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise TetherError(f"{path} cannot be written: give a name that ends in .png")
    info, length = PngImagePlugin.PngInfo(), 0
    for key, value in (metadata or {}).items():
        info.add_itxt(key, value)
        length += len(value.encode())
    if length > MAX_TEXT:
        raise TetherError(f"{path} cannot be written: its text has {length:,} bytes, a PNG takes {MAX_TEXT:,}")
    part = path.with_name(f".{path.name[:40]}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        with part.open("wb") as file:
            image.save(file, "PNG", pnginfo=info)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise TetherError(f"{path} cannot be written: {reason}") from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def read_metadata(path: Path | str) -> dict[str, str]:
    """The text that `save_png` put into a PNG; empty where there is none.

    Raises:
        TetherError: when the file cannot be read as a PNG.
    """
    open_image(path)
    with Image.open(path, formats=["PNG"]) if _is_png(path) else _no_png(path) as image:
        image.load()
        return {k: str(v) for k, v in getattr(image, "text", {}).items() if len(v) <= MAX_TEXT}


def _is_png(path: Path | str) -> bool:
    with Path(path).open("rb") as file:
        return file.read(8) == b"\x89PNG\r\n\x1a\n"


def _no_png(path: Path | str) -> Image.Image:
    raise TetherError(f"{path} is no PNG")


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]],
    labels: Sequence[Sequence[str]] | None = None,
    gap: int = 6,
) -> Image.Image:
    """Rows of pictures on white; every cell has the size of the largest picture. Labels stand below their pictures."""
    width = max(image.width for row in rows for image in row)
    height = max(image.height for row in rows for image in row)
    text = 28 if labels else 0
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, len(rows) * (height + text + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            x, y = gap + c * (width + gap), gap + r * (height + text + gap)
            sheet.paste(image.convert("RGB"), (x + (width - image.width) // 2, y + (height - image.height) // 2))
            if labels and c < len(labels[r]):
                _label(draw, labels[r][c], x, y + height + 2, width)
    return sheet


def _label(draw: ImageDraw.ImageDraw, text: str, x: int, y: int, width: int) -> None:
    """Words in at most two lines of the given width."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if draw.textlength(longer) > width and line:
            lines.append(line)
            line = word
        else:
            line = longer
    for k, shown in enumerate([*lines, line][:2]):
        draw.text((x, y + 12 * k), shown, fill=(60, 60, 60))
