"""The fields of a request that JSON has no type for: images, masks, strengths."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Callable
from typing import Annotated, Any

from PIL import Image
from pydantic import AfterValidator, BeforeValidator, PlainSerializer, PlainValidator, WithJsonSchema

from tether.control.schedule import Schedule, parse_strength
from tether.errors import TetherError
from tether.images import open_image, open_map, to_mask

__all__ = ["MapImages", "MaskImage", "PngImage", "PngImages", "Strength", "as_list"]


def as_list(images: Image.Image | list[Image.Image] | None) -> list[Image.Image]:
    """None, one image or several as a list."""
    return [] if images is None else images if isinstance(images, list) else [images]


def _decoded(value: Any, opened: Callable[[io.BytesIO], Image.Image] = open_image) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return opened(io.BytesIO(base64.b64decode(value, validate=True)))
    except (binascii.Error, TetherError) as error:
        raise ValueError(f"not an image in base64: {error}") from None


def _encoded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _checked_strength(value: Any) -> float | str:
    """A number, or the text of a schedule."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Schedule)):
        raise ValueError("it must be a number, 0 or more, or a schedule such as 0.2@0-0.3,0.6@0.3-1")
    read = parse_strength(value) if isinstance(value, str) else value
    return str(read) if isinstance(read, Schedule) else read


def _checked_images(
    value: Any, opened: Callable[[io.BytesIO], Image.Image] = open_image
) -> Image.Image | list[Image.Image] | None:
    """None, one image, or a list of several; a list of one is that image."""
    if value is None:
        return None
    images = [_decoded(one, opened) for one in (value if isinstance(value, (list, tuple)) else [value])]
    if not images or not all(isinstance(one, Image.Image) for one in images):
        raise ValueError("expected an image, or a list of images: PIL images, in JSON PNGs in base64")
    return images if len(images) > 1 else images[0]


def _checked_maps(value: Any) -> Image.Image | list[Image.Image] | None:
    return _checked_images(value, open_map)


def _encoded_images(value: Image.Image | list[Image.Image] | None) -> str | list[str] | None:
    if value is None:
        return None
    return [_encoded(one) for one in value] if isinstance(value, list) else _encoded(value)


_PNG = {"type": "string", "contentMediaType": "image/png", "contentEncoding": "base64"}
PngImage = Annotated[
    Image.Image,
    BeforeValidator(lambda value: _decoded(value)),
    PlainSerializer(_encoded),
    WithJsonSchema(_PNG),
]
"""A PIL image; in JSON, a PNG in base64."""
MaskImage = Annotated[PngImage, AfterValidator(to_mask)]
"""The same as a mask in 8-bit gray, see `tether.images.to_mask`."""
Strength = Annotated[float | str, BeforeValidator(_checked_strength)]
"""A number, or the text of a `tether.control.schedule.Schedule`."""
_IN_JSON = (
    PlainSerializer(_encoded_images),
    WithJsonSchema({"anyOf": [_PNG, {"type": "array", "items": _PNG}, {"type": "null"}]}),
)
PngImages = Annotated[
    Image.Image | list[Image.Image] | None, PlainValidator(lambda value: _checked_images(value)), *_IN_JSON
]
"""None, one image, or a list of images, one an image of the batch."""
MapImages = Annotated[Image.Image | list[Image.Image] | None, PlainValidator(_checked_maps), *_IN_JSON]
"""The same of condition maps, which are read by `tether.images.open_map`."""
