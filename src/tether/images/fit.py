"""Images of any size -> of the size that is drawn."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageOps

from tether.errors import TetherError
from tether.images.read import is_transparent, to_rgb, to_rgba

__all__ = ["FitRule", "fit", "fit_deep", "inner_size"]

FitRule = Literal["stretch", "crop", "pad"]


def fit(
    image: Image.Image,
    width: int,
    height: int,
    rule: FitRule = "crop",
    *,
    pad_color: tuple[int, int, int] = (255, 255, 255),
    nearest: bool = False,
    whole: bool = False,
) -> Image.Image:
    """Fits an image to a size.

    Args:
        image: any PIL image. 8-bit grayscale stays so, transparency becomes RGBA, all else RGB, by `to_rgb`.
        width, height: in pixels.
        rule: "stretch" changes the aspect ratio, "crop" crops the longer side, "pad" adds a border.
        pad_color: of that border, RGB in 0..255: white for photos.
        nearest: resize by the nearest pixel, which makes no new colors.
        whole: reduce by the mean of whole pixels, so that a line of one pixel never falls between two.

    Raises:
        TetherError: for an unknown rule.
    """
    _check_rule(rule)
    image = _of_three_modes(image)
    if image.size == (width, height):
        return image
    method = Image.Resampling.NEAREST if nearest else _filter(image, width, height, rule, whole)
    if rule == "stretch":
        return image.resize((width, height), method)
    if rule == "crop":
        # In one step: a long and narrow image, resized as a whole before it is cropped, would be enormous.
        return ImageOps.fit(image, (width, height), method)
    inner = inner_size(image, width, height)
    canvas = Image.new(image.mode, (width, height), pad_color[0] if image.mode == "L" else pad_color)
    canvas.paste(image.resize(inner, method), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return canvas


def fit_deep(image: Image.Image, width: int, height: int, rule: FitRule = "crop") -> Image.Image:
    """As `fit`, for gray of 16 bits, which stays so; the border of "pad" is black.

    Args:
        image: of mode "I;16".
        width, height: in pixels.
        rule: "stretch", "crop" or "pad".

    Returns:
        An image of mode "I;16".

    Raises:
        TetherError: for an unknown rule.
    """
    _check_rule(rule)
    if image.size == (width, height):
        return image
    gray = Image.fromarray(np.asarray(image).astype(np.float32))  # which Pillow resizes by every filter
    method = _filter(image, width, height, rule)
    if rule == "stretch":
        fitted = gray.resize((width, height), method)
    elif rule == "crop":
        fitted = ImageOps.fit(gray, (width, height), method)
    else:
        inner = inner_size(image, width, height)
        fitted = Image.new("F", (width, height))
        place = ((width - inner[0]) // 2, (height - inner[1]) // 2)
        fitted.paste(gray.resize(inner, method), place)
    return Image.fromarray(np.asarray(fitted).round().clip(0, 65535).astype(np.uint16))


def _check_rule(rule: str) -> None:
    if rule not in get_args(FitRule):
        raise TetherError(f"fit {rule!r} is unknown: choose one of {', '.join(get_args(FitRule))}")


def inner_size(image: Image.Image, width: int, height: int) -> tuple[int, int]:
    """Width and height of an image inside the border of "pad": the largest of its aspect ratio that fit."""
    scale = min(width / image.width, height / image.height)
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def _of_three_modes(image: Image.Image) -> Image.Image:
    """An image as L, RGB or RGBA."""
    if is_transparent(image):
        return to_rgba(image)
    return image if image.mode == "L" else to_rgb(image)


def _filter(image: Image.Image, width: int, height: int, rule: FitRule, whole: bool = False) -> Image.Resampling:
    """When both sides shrink, the mean of an area by whole numbers or if `whole` asks for it, and Hamming's filter by
    others, as Pillow's areas are of whole pixels: none of the two makes levels that are not there. Else Lanczos."""
    if rule == "pad":
        width, height = inner_size(image, width, height)
    across, down = image.width / width, image.height / height
    if rule == "crop":
        across = down = min(across, down)
    if min(across, down) < 1:
        return Image.Resampling.LANCZOS
    whole = whole or (across.is_integer() and down.is_integer())
    return Image.Resampling.BOX if whole else Image.Resampling.HAMMING
