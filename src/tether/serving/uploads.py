"""Bytes of clients -> values and images, within limits.

A body is JSON, or a form (multipart/form-data) with the same JSON in its part `request` and images as files whose names
are their places in it: `init`, `mask`, `controls.0.photo`. Sizes of images are read from their headers before anything
is decoded.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
import re
import zlib
from collections.abc import Sequence
from typing import Any

from PIL import Image, UnidentifiedImageError

from tether.errors import TetherError
from tether.images import open_image
from tether.serving.errors import Refused, invalid, too_large
from tether.serving.structure import FORMATS, check_structure

__all__ = ["check_texts", "image_bytes", "parse_json", "place", "png_text", "read_image"]

_DATA_URL = re.compile(r"data:[\w.+-]*/?[\w.+-]*(?:;[\w.+=-]+)*;base64,", re.ASCII)
_DEPTH = 16
"""Levels of lists and objects in a request; a real one has four."""
MAX_VALUES = 100_000
"""Commas, colons and brackets of a JSON text, so that its values take no more memory than itself; base64 has none."""
_PLACE = re.compile(r"init|mask|image|controls\.(\d{1,2})\.(photo|condition|mask)")


def parse_json(text: bytes | str, what: str = "the body") -> dict[str, Any]:
    """A JSON object whose texts can be written as UTF-8.

    Raises:
        Refused: 422, when it is anything else.
    """
    marks = b",:[{" if isinstance(text, bytes) else ",:[{"
    if sum(text.count(marks[k : k + 1]) for k in range(len(marks))) > MAX_VALUES:  # type: ignore[arg-type]
        raise invalid(None, f"{what} has more than {MAX_VALUES:,} values")
    try:
        values = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        line = str(error).splitlines()[0][:120]
        raise invalid(None, f"{what} is not valid JSON: {line}") from None
    if not isinstance(values, dict):
        raise invalid(None, f"{what} is a {type(values).__name__}: expected a JSON object")
    check_texts(values)
    return values


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is out of range")
    return number


def check_texts(value: Any, where: str = "", depth: int = 0) -> None:
    """Refuses characters that neither UTF-8 nor a database takes, and lists within lists without end.

    Args:
        value: of JSON.
        where: its place in the request.
        depth: how many lists and objects it is in.

    Raises:
        Refused: 422.
    """
    if depth > _DEPTH:
        raise invalid(None, f"the request is nested deeper than {_DEPTH} levels")
    if isinstance(value, dict):
        for key, each in value.items():
            check_texts(key, where, depth + 1)
            check_texts(each, f"{where}.{key}".strip("."), depth + 1)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            check_texts(each, f"{where}.{index}".strip("."), depth + 1)
    elif isinstance(value, str) and ("\0" in value or not _is_utf8(value)):
        raise invalid(where[:200] or None, "the text has a NUL, or half of a surrogate pair")


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def place(values: dict[str, Any], name: str, contents: Sequence[bytes]) -> None:
    """Puts uploaded files where their name says: one, or a list of those that have it.

    Raises:
        Refused: 422, when the name is no place of an image, or there is an image already.
    """
    match = _PLACE.fullmatch(name)
    if match is None:
        raise invalid(name[:80], "a file is init, mask, controls.N.photo, controls.N.condition or controls.N.mask")
    target, key = values, name
    if match[1] is not None:
        controls, index, key = values.get("controls"), int(match[1]), match[2]
        if not isinstance(controls, list) or index >= len(controls) or not isinstance(controls[index], dict):
            raise invalid(name, f"the request has no control {index}: list it in controls, without its image")
        target = controls[index]
    if target.get(key) is not None:
        raise invalid(name, "the image is given twice: as a file, or in the request")
    texts = [base64.b64encode(content).decode() for content in contents]
    target[key] = texts if len(texts) > 1 else texts[0]


def image_bytes(value: Any, field: str) -> bytes:
    """The bytes of an image in base64, with or without `data:image/png;base64,` before it.

    Raises:
        Refused: 422, when it is anything else.
    """
    if not isinstance(value, str):
        raise invalid(field, f"expected an image in base64, not a {type(value).__name__}")
    start = _DATA_URL.match(value[:200])
    try:
        content = base64.b64decode(value[start.end() if start else 0 :], validate=True)
    except (binascii.Error, ValueError):
        raise invalid(field, "not an image in base64") from None
    if not content:
        raise invalid(field, "the image is empty")
    return content


def read_image(content: bytes, field: str, most: int) -> Image.Image:
    """Decodes an image.

    Args:
        content: of its file.
        field: its place in the request.
        most: pixels that it may have.

    Raises:
        Refused: 413 for more pixels, 422 for what is not an image.
    """
    check_structure(content, field)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
        _check_pixels(width, height, most, field)
        read = open_image(io.BytesIO(content), formats=FORMATS)
        _check_pixels(read.width, read.height, most, field)
        return read
    except Refused:
        raise
    except Image.DecompressionBombError:
        raise too_large(f"the image has too many pixels: the limit is {most:,}", field) from None
    except UnidentifiedImageError:
        raise invalid(field, f"not a supported image format: use {', '.join(FORMATS)}") from None
    except TetherError as error:
        raise invalid(field, str(error)) from None
    except Exception as error:  # whatever Pillow raises for a broken header
        line = (str(error).splitlines() or [""])[0][:120]
        raise invalid(field, f"the image is damaged: {line or type(error).__name__}") from None


def _check_pixels(width: int, height: int, most: int, field: str) -> None:
    if width * height > most:
        raise too_large(f"the image has {width}x{height} pixels: the limit is {most:,}", field)


def png_text(content: bytes, key: str) -> str | None:
    """A text that a PNG carries; None when it has none, or is damaged. Nothing of it is opened or run.

    Args:
        content: of its file, which `read_image` took.
        key: the text's keyword.
    """
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            image.load()
            text = getattr(image, "text", {}).get(key)
    except (OSError, ValueError, SyntaxError, zlib.error):
        return None
    return None if text is None else str(text)
