"""One sample, (picture, condition, caption): from what a source has to what a shard holds, or why not.

A picture is decoded to 8-bit RGB, reduced so that its shorter side has `size` pixels, and annotated at that size. The
annotator's thresholds are drawn from the picture's own hash, so a sample never depends on where or when it is made.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from tether import kinds
from tether.errors import TetherError
from tether.images import fit, open_image, to_rgb

__all__ = ["Picture", "Preparation", "Prepared", "Reason", "Rejected", "Sample", "encode", "prepare"]

Picture = bytes | Path | Image.Image
"""An encoded picture, the file of one, or pixels."""

Reason = Literal[
    "unreadable",
    "too small",
    "wrong mode",
    "duplicate",
    "empty caption",
    "condition unreadable",
    "condition size",
    "not annotated",
]

PICTURE_MODES = {"L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
"""What a photo or a drawing comes in. Masks (1 bit) and measurements (16 bits, float, Lab) are no training pictures."""
JPEG_QUALITY = 95


@dataclass(frozen=True)
class Sample:
    """A sample as a source has it.

    Attributes:
        key: names the sample in its source: the same one each time the source is opened.
        image: the picture.
        caption: words for it.
        condition: the condition image where the source brings one, of the picture's size.
    """

    key: str
    image: Picture
    caption: str
    condition: Picture | None = None


@dataclass(frozen=True)
class Prepared:
    """A sample as a shard holds it.

    Attributes:
        key: the source's key.
        image: encoded picture.
        suffix: "png" or "jpg", its format.
        condition: PNG of the same size.
        caption: one line, not empty.
        content: SHA-256 of the source's pixels (and of its condition's, where it brings one).
    """

    key: str
    image: bytes
    suffix: str
    condition: bytes
    caption: str
    content: str


class Rejected(Exception):
    """A sample that cannot be used.

    Attributes:
        reason: the kind of fault.
        detail: the fault in words.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, self.detail)


@dataclass(frozen=True)
class Preparation:
    """How samples are prepared.

    Attributes:
        condition: the kind of condition. Where the source brings conditions it only names them.
        options: the annotator's options. None draws them at random for each sample where the annotator can
            (`Kind.vary`), so that a control learns to follow any thresholds.
        size: larger pictures are reduced until their shorter side has so many pixels; none is enlarged.
        min_side: pictures with a shorter side than this, or than `size` where that is less, are left out.
    """

    condition: str
    options: Mapping[str, float] | None = None
    size: int = 512
    min_side: int = 64

    def __post_init__(self) -> None:
        if self.size < 8 or self.min_side < 1:
            raise TetherError(f"size is {self.size} and min_side {self.min_side}: give at least 8 and 1 pixels")

    def check_condition(self, given: bool) -> None:
        """Raises a TetherError where samples without a condition could not be annotated."""
        if not given:
            kinds.make_map(self.condition, Image.new("RGB", (16, 16)), None, self.options or {})
        elif self.options:
            raise TetherError("the source brings its own conditions: leave the annotator's options out")


def prepare(sample: Sample, how: Preparation) -> Prepared:
    """Decodes, checks, resizes, annotates and encodes one sample.

    Raises:
        Rejected: where the sample is bad.
    """
    # Half a surrogate pair, as cut-off captions have it, is no character.
    caption = " ".join(sample.caption.encode("utf-8", "replace").decode().split())
    if not caption:
        raise Rejected("empty caption", "there are no words for the picture")
    image, lossy = _decode(sample.image, min(how.min_side, how.size))
    content = hashlib.sha256(repr(image.size).encode() + image.tobytes())
    width, height = image.size
    scale = min(1.0, how.size / min(width, height))
    new = max(1, round(width * scale)), max(1, round(height * scale))
    if sample.condition is None:
        image, condition = _annotate(image, how, new, content.hexdigest())
    else:
        condition = _decode_condition(sample.condition, (width, height))
        content.update(condition.tobytes())
        image, condition = fit(image, *new, "stretch"), kinds.fit_map(condition, how.condition, new, "stretch")
    suffix = "jpg" if lossy else "png"
    return Prepared(sample.key, encode(image, suffix), suffix, encode(condition, "png"), caption, content.hexdigest())


def _decode(picture: Picture, min_side: int) -> tuple[Image.Image, bool]:
    """A picture as RGB, and whether its file had lost detail already, so that a JPEG of it is good enough."""
    if isinstance(picture, Image.Image):
        _check_side(picture.size, min_side)
        return to_rgb(picture), False
    try:
        data = picture if isinstance(picture, bytes) else picture.read_bytes()
        image = open_image(io.BytesIO(data))
        with Image.open(io.BytesIO(data)) as header:
            mode, lossy = header.mode, header.format == "JPEG"
    except (TetherError, OSError) as error:
        raise Rejected("unreadable", str(error).replace("the image", "it")) from None
    if mode not in PICTURE_MODES:
        raise Rejected("wrong mode", f"it is of mode {mode}: expected 8 bits of grey or colour")
    _check_side(image.size, min_side)
    return image, lossy


def _check_side(size: tuple[int, int], min_side: int) -> None:
    if min(size) < min_side:
        raise Rejected("too small", f"{size[0]}x{size[1]}: the shorter side needs {min_side} pixels")


def _decode_condition(picture: Picture, size: tuple[int, int]) -> Image.Image:
    """A condition image that the source brings, as RGB, of exactly the picture's size."""
    try:
        given = io.BytesIO(picture) if isinstance(picture, bytes) else picture
        condition = to_rgb(given) if isinstance(given, Image.Image) else open_image(given)
    except (TetherError, OSError) as error:
        raise Rejected("condition unreadable", str(error).replace("the image", "it")) from None
    if condition.size != size:
        told = f"{condition.width}x{condition.height} for a picture of {size[0]}x{size[1]}"
        raise Rejected("condition size", f"the condition has {told}")
    return condition


def _annotate(
    image: Image.Image, how: Preparation, size: tuple[int, int], content: str
) -> tuple[Image.Image, Image.Image]:
    """An image and its condition at a size; a random variation, fixed by the content, when no options are given."""
    rng = np.random.default_rng(int(content[:16], 16))
    try:
        prepared = kinds.prepare(image, how.condition, size, fit="stretch", options=how.options, rng=rng)
    except TetherError as error:
        raise Rejected("not annotated", str(error)) from None
    return prepared.photo, prepared.condition


def encode(image: Image.Image, suffix: str) -> bytes:
    """PNG without colour where there is none; JPEG at a quality that training cannot tell from the picture."""
    file = io.BytesIO()
    if suffix == "jpg":
        image.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        return file.getvalue()
    red, green, blue = image.convert("RGB").split()
    grey = red.tobytes() == green.tobytes() == blue.tobytes()
    (red if grey else image).save(file, "PNG")
    return file.getvalue()
