"""Images and condition maps of any size -> of the size that is drawn."""

from __future__ import annotations

from typing import Literal, get_args

from PIL import Image, ImageOps

from tether.errors import TetherError
from tether.images.read import to_rgb

__all__ = ["FitRule", "fit", "fit_condition", "inner_size"]

FitRule = Literal["stretch", "crop", "pad"]


def fit(
    image: Image.Image,
    width: int,
    height: int,
    rule: FitRule = "crop",
    *,
    pad_color: tuple[int, int, int] = (255, 255, 255),
    nearest: bool = False,
) -> Image.Image:
    """Fits an image to a size.

    Args:
        image: any PIL image; everything but 8-bit grayscale becomes RGB, by `to_rgb`.
        width, height: in pixels.
        rule: "stretch" changes the aspect ratio, "crop" crops the longer side, "pad" adds a border.
        pad_color: of that border, RGB in 0..255: white for photos.
        nearest: resize by the nearest pixel, which makes no new colors.

    Raises:
        TetherError: for an unknown rule.
    """
    if rule not in get_args(FitRule):
        raise TetherError(f"fit {rule!r} is unknown: choose one of {', '.join(get_args(FitRule))}")
    image = image if image.mode == "L" else to_rgb(image)
    if image.size == (width, height):
        return image
    method = Image.Resampling.NEAREST if nearest else _filter(image, width, height)
    if rule == "stretch":
        return image.resize((width, height), method)
    if rule == "crop":
        # In one step: a long and narrow image, resized as a whole before it is cropped, would be enormous.
        return ImageOps.fit(image, (width, height), method)
    inner = inner_size(image, width, height)
    if not nearest:
        method = _filter(image, *inner)
    canvas = Image.new(image.mode, (width, height), pad_color if image.mode == "RGB" else pad_color[0])
    canvas.paste(image.resize(inner, method), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return canvas


def inner_size(image: Image.Image, width: int, height: int) -> tuple[int, int]:
    """Width and height of an image inside the border of "pad": the largest of its aspect ratio that fit."""
    scale = min(width / image.width, height / image.height)
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def fit_condition(image: Image.Image, width: int, height: int, rule: FitRule = "crop") -> Image.Image:
    """As `fit`, for condition maps: the border is black, and thin lines survive.

    A map of only black and white stays so. Reduced by a factor f, a line of one pixel keeps 1/f of its brightness, so
    a pixel of the result is white from half of that on.
    """
    image = to_rgb(image)
    fitted = fit(image, width, height, rule, pad_color=(0, 0, 0))
    if image.size == fitted.size or not _is_black_and_white(image):
        return fitted
    scales = width / image.width, height / image.height
    shrink = min(1.0, max(scales) if rule == "crop" else min(scales))
    table = [255 if level >= 127.5 * shrink else 0 for level in range(256)]
    return fitted.convert("L").point(table).convert("RGB")


def _is_black_and_white(image: Image.Image) -> bool:
    red, green, blue = image.split()
    return sum(red.histogram()[1:255]) == 0 and red.tobytes() == green.tobytes() == blue.tobytes()


def _filter(image: Image.Image, width: int, height: int) -> Image.Resampling:
    """By area when both sides shrink, so that no pixel is skipped; else Lanczos."""
    shrinks = width <= image.width and height <= image.height
    return Image.Resampling.BOX if shrinks else Image.Resampling.LANCZOS
