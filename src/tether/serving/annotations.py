"""`POST /v1/annotate`: an image in, its condition map out."""

from __future__ import annotations

import io
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tether.errors import TetherError
from tether.kinds import prepare
from tether.serving.acceptance import check_annotator
from tether.serving.errors import invalid
from tether.serving.settings import Settings
from tether.serving.uploads import image_bytes, read_image

__all__ = ["Annotation", "annotated"]


class Annotation(BaseModel):
    """What to annotate, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str = Field(
        json_schema_extra={"contentEncoding": "base64"}, description="An image in base64, or a file of that name."
    )
    kind: str = Field(max_length=80)
    annotator: str | None = Field(default=None, max_length=80)
    options: dict[str, float] = Field(default_factory=dict, max_length=32)
    size: tuple[int, int] | None = Field(
        default=None, description="Width and height of the map; the image is fitted to it first. By default its own."
    )
    fit: str = Field(default="crop", pattern="^(stretch|crop|pad)$")


def annotated(values: dict[str, Any], settings: Settings) -> bytes:
    """The condition map, a PNG.

    Raises:
        Refused: when a value is wrong or above a limit.
    """
    try:
        asked = Annotation(**values)
    except (ValidationError, TypeError) as error:
        raise _first(error) from None
    image = read_image(image_bytes(asked.image, "image"), "image", settings.limits.upload_pixels)
    size = asked.size or image.size
    if min(size) < 1 or size[0] * size[1] > settings.limits.pixels:
        raise invalid("size", f"{size[0]}x{size[1]} pixels: the limit is {settings.limits.pixels:,}; give a size")
    check_annotator(asked.kind, asked.annotator, asked.options)
    try:
        made = prepare(
            image,
            asked.kind,
            size,
            fit=asked.fit,  # type: ignore[arg-type]
            annotator=asked.annotator,
            options=asked.options,
        )
    except TetherError as error:
        raise invalid("kind", str(error)) from None
    buffer = io.BytesIO()
    made.condition.save(buffer, "PNG")
    return buffer.getvalue()


def _first(error: Exception) -> Exception:
    if not isinstance(error, ValidationError):
        return invalid(None, "the request has a key that is not one of its fields")
    first = error.errors(include_url=False)[0]
    return invalid(".".join(str(part) for part in first["loc"])[:80] or None, first["msg"])
