"""One training sample (image, condition, caption): from what a source has to what a shard stores, or why not.

An image is decoded to 8-bit RGB, reduced so that its shorter side has `size` pixels, and annotated at that size. Random
annotator options are drawn from the image's own hash, so a sample never depends on where or when it is made.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from tether import kinds
from tether.datasets.holes import fit_holes, given_holes, random_holes, with_holes
from tether.datasets.names import Captions
from tether.datasets.source import ImageData, Rejected, Sample, Source, image_data_size
from tether.errors import TetherError
from tether.images import fit, open_image, open_map, to_rgb
from tether.images.read import Background

__all__ = ["Preparation", "Prepared", "check_sample", "encode", "prepare", "prepare_sample"]

IMAGE_MODES = {"L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
"""PIL modes of photos and drawings. Masks (1 bit) and measurements (16 bits, float, Lab) are not training images."""
JPEG_QUALITY = 95
_NUMBERS = re.compile(r"([-+.\deE]+ ){4,}[-+.\deE]+")
"""Five numbers or more, as labels of detectors have them: a class and a box."""


@dataclass(frozen=True)
class Prepared:
    """A sample as a shard stores it.

    Attributes:
        key: the source's key.
        image: the encoded image.
        suffix: its format, "png" or "jpg".
        condition: PNG of the same size.
        caption: one line, not empty.
        content: SHA-256 of the source's pixels (and of its condition's, if it brings one).
        further_captions: its other captions, one line each.
    """

    key: str
    image: bytes
    suffix: str
    condition: bytes
    caption: str
    content: str
    further_captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preparation:
    """How samples are prepared.

    Attributes:
        condition: the kind of condition, by any of its names. If the source brings conditions of its own, it only names
            them.
        options: the annotator's options. None draws them at random for each sample, if the kind can vary, so that a
            control learns to follow any thresholds.
        size: larger images are reduced until their shorter side has this many pixels; none is enlarged.
        min_side: images with a shorter side than this, or than `size` if that is less, are rejected.
        captions: "one": each caption of an image is kept, and one is drawn each time; "all": they are joined by
            commas; "none": prompts are empty.
    """

    condition: str
    options: Mapping[str, float] | None = None
    size: int = 512
    min_side: int = 64
    captions: Captions = "one"

    def __post_init__(self) -> None:
        # By its own name, as sources are asked for it: "pose" is openpose.
        object.__setattr__(self, "condition", kinds.find_kind(self.condition).name)
        if self.size < 8 or self.min_side < 1:
            raise TetherError(f"size is {self.size} and min_side {self.min_side}: give at least 8 and 1 pixels")

    def maker(self, source: Source) -> dict[str, Any]:
        """What else the conditions of a source's samples depend on: a version of this code, or a detector's weights.

        Raises:
            TetherError: if the detector has no weights.
        """
        kind = kinds.find_kind(self.condition)
        if source.brings(self.condition):
            return {"maker": 3} if kind.needs_mask else {}  # earlier versions inverted some masks
        weights = kind.annotator().weights if kind.annotators else None
        return {} if weights is None else {"detector": weights()}

    def check_condition(self, source: Source) -> None:
        """Raises a TetherError if the source's samples neither have conditions of the kind nor can be annotated."""
        if source.brings(self.condition):
            if self.options:
                raise TetherError("the source brings its own conditions: leave the annotator's options out")
            return
        kind = kinds.kind_of(self.condition)
        if not kind.annotators and not kind.is_image:
            possible = sorted({*kinds.annotator_names(), *source.exact_conditions})
            raise TetherError(
                f"{self.condition} has no annotator, and the source has no {self.condition} maps: give a source with "
                f"condition images, or choose one of {', '.join(possible)}"
            )
        kinds.make_map(self.condition, Image.new("RGB", (16, 16)), None, self.options or {})


def prepare(sample: Sample, how: Preparation) -> Prepared:
    """Decodes, checks, resizes, annotates and encodes one sample.

    Raises:
        Rejected: if the sample cannot be used.
    """
    captions = _captions(sample, how.captions)
    image, lossy = _decode(sample.image, min(how.min_side, how.size))
    content = hashlib.sha256(repr(image.size).encode() + image.tobytes())
    width, height = image.size
    scale = min(1.0, how.size / min(width, height))
    new = max(1, round(width * scale)), max(1, round(height * scale))
    if kinds.find_kind(how.condition).needs_mask:
        condition = _with_holes(image, sample.condition, content.hexdigest())
        if sample.condition is not None:
            content.update(condition.tobytes())
        image, condition = fit(image, *new, "stretch"), fit_holes(condition, new)
    elif sample.condition is None:
        image, condition = _annotate(image, how, new, content.hexdigest())
    else:
        condition = _decode_condition(sample.condition, (width, height))
        content.update(condition.tobytes())
        image, condition = fit(image, *new, "stretch"), kinds.fit_map(condition, how.condition, new, "stretch")
    suffix = "jpg" if lossy else "png"
    return Prepared(
        sample.key,
        encode(image, suffix),
        suffix,
        encode(condition, "png"),
        captions[0],
        content.hexdigest(),
        captions[1:],
    )


def check_sample(sample: Sample, how: Preparation) -> None:
    """What can be told of a sample without decoding it.

    Raises:
        Rejected: if it cannot be used.
    """
    _captions(sample, how.captions)
    size = image_data_size(sample.image)
    if size is None:
        raise Rejected("unreadable", "it is no image that can be read")
    _check_side(size, min(how.min_side, how.size))
    given = None if sample.condition is None else image_data_size(sample.condition)
    if given is not None and given != size:
        raise _other_size(given, size)


def _captions(sample: Sample, wanted: Captions) -> tuple[str, ...]:
    """The captions that are kept, one line each; at least one."""
    if wanted == "none":
        return ("",)
    # A truncated caption may end in half a surrogate pair, which is not a character.
    found = [" ".join(caption.encode("utf-8", "replace").decode().split()) for caption in sample.captions]
    found = list(dict.fromkeys(caption for caption in found if caption))
    if not found:
        raise Rejected("empty caption", "the image has no caption (captions: none trains without any)")
    words = [caption for caption in found if not _NUMBERS.fullmatch(caption)]
    if not words:
        raise Rejected("empty caption", f"its caption is numbers, such as boxes of objects: {found[0][:40]}")
    return (", ".join(words),) if wanted == "all" else tuple(words)


def _decode(data: ImageData, min_side: int) -> tuple[Image.Image, bool]:
    """An image as RGB, and whether its file is lossy already, so that a JPEG of it is good enough."""
    if isinstance(data, Image.Image):
        _check_side(data.size, min_side)
        return to_rgb(data), False
    try:
        encoded = data if isinstance(data, bytes) else data.read_bytes()
        image = open_image(io.BytesIO(encoded), background="white")
        with Image.open(io.BytesIO(encoded)) as header:
            mode, lossy = header.mode, header.format == "JPEG"
    except (TetherError, OSError) as error:
        raise Rejected("unreadable", str(error)) from None
    if mode not in IMAGE_MODES:
        raise Rejected("wrong mode", f"the image's mode is {mode}: expected 8 bits of gray or color")
    _check_side(image.size, min_side)
    return image, lossy


def _check_side(size: tuple[int, int], min_side: int) -> None:
    if min(size) < min_side:
        raise Rejected("too small", f"the image has {size[0]}x{size[1]} pixels: its shorter side needs {min_side}")


def _with_holes(image: Image.Image, given: ImageData | None, content: str) -> Image.Image:
    """The image with holes to inpaint, RGBA: those of the condition that the source brings, or random ones."""
    if given is None:
        rng = np.random.default_rng(int(content[:16], 16))
        return with_holes(image, random_holes(*image.size, rng))
    grounds: tuple[Background, ...] = ("white", "black")
    white, black = (_decode_condition(given, image.size, ground) for ground in grounds)
    holes = given_holes(white, black, image)
    if not holes.any():
        raise Rejected(
            "empty condition", "nothing in it is transparent, white in a mask, or black where the image is not"
        )
    return with_holes(image, holes)


def _decode_condition(data: ImageData, size: tuple[int, int], background: Background = "black") -> Image.Image:
    """A condition that the source brings, as RGB, of exactly the image's size; transparent parts are empty, black."""
    try:
        given = io.BytesIO(data) if isinstance(data, bytes) else data
        drawn = isinstance(given, Image.Image)
        condition = to_rgb(given if drawn else open_map(given, background=background), background)
    except (TetherError, OSError) as error:
        raise Rejected("condition unreadable", str(error)) from None
    if condition.size != size:
        raise _other_size(condition.size, size)
    return condition


def _other_size(condition: tuple[int, int], image: tuple[int, int]) -> Rejected:
    sizes = f"{condition[0]}x{condition[1]} pixels, the image {image[0]}x{image[1]}"
    return Rejected("condition size", f"the condition has {sizes}")


def _annotate(
    image: Image.Image, how: Preparation, size: tuple[int, int], content: str
) -> tuple[Image.Image, Image.Image]:
    """An image and its condition at a size; with random options if none are given and the kind can vary."""
    rng = np.random.default_rng(int(content[:16], 16))
    try:
        prepared = kinds.prepare(image, how.condition, size, fit="stretch", options=how.options, rng=rng)
    except TetherError as error:
        raise Rejected("not annotated", str(error)) from None
    return prepared.photo, to_rgb(prepared.condition)


def encode(image: Image.Image, suffix: str) -> bytes:
    """PNG, with one channel if the image is gray; or JPEG at a quality that training cannot tell from the original."""
    file = io.BytesIO()
    if suffix == "jpg":
        image.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        return file.getvalue()
    if image.mode == "RGBA":  # transparent where it is to be inpainted
        image.save(file, "PNG")
        return file.getvalue()
    red, green, blue = image.convert("RGB").split()
    gray = red.tobytes() == green.tobytes() == blue.tobytes()
    (red if gray else image).save(file, "PNG")
    return file.getvalue()


def prepare_sample(source: Source, how: Preparation, index: int) -> Prepared | Rejected:
    """A sample of a source, or why it cannot be used."""
    try:
        return prepare(source.sample(index, how.condition), how)
    except Rejected as fault:
        return fault
    except OSError as error:
        return Rejected("unreadable", f"cannot read its file: {error.strerror or error}")
    except (ValueError, MemoryError, cv2.error) as error:  # one bad sample must not stop the rest
        return Rejected("unreadable", (str(error) or type(error).__name__).strip().splitlines()[0])
