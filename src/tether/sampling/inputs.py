"""Images as people have them in Python: PIL images, arrays, tensors, paths.

What is unambiguous becomes a PIL image, or for maps of other than 1, 3 or 4 channels an array; the rest is refused in
one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tether.errors import TetherError
from tether.images import FitRule, fit, open_image, open_map, to_condition
from tether.kinds import find_kind, fit_map

__all__ = ["Map", "as_image", "as_maps", "check_maps", "is_image", "map_pixels"]

Map = Image.Image | np.ndarray
"""A condition map: a PIL image, or uint8 `(H, W, C)` for other counts of channels."""
_SHAPES = "an image is (H, W), (H, W, C) or a tensor (C, H, W)"


def is_image(value: object) -> bool:
    """Whether this is one image, or one batch in a tensor or an array, and not a list of them."""
    return isinstance(value, (Image.Image, np.ndarray, Tensor, str, Path))


def as_image(value: Any, what: str) -> Image.Image:
    """One image of 1, 3 or 4 channels.

    Args:
        value: a PIL image, a path, an array `(H, W)` or `(H, W, C)`, or a tensor `(C, H, W)` or `(1, C, H, W)`; bytes,
            floats in [0, 1], or one channel of 16 bits.
        what: its name in messages.

    Raises:
        TetherError: for anything else.
    """
    maps = [open_image(Path(value))] if isinstance(value, (str, Path)) else as_maps(value, what)
    if len(maps) != 1:
        raise TetherError(f"{what} has {len(maps)} images: expected one")
    (one,) = maps
    if isinstance(one, np.ndarray):
        raise TetherError(f"{what} has {one.shape[2]} channels: expected 1, 3 or 4")
    return one


def as_maps(value: Any, what: str) -> list[Map]:
    """One map, or a map an image: from a list of them, an array `(B, H, W, C)` or a tensor `(B, C, H, W)`.

    Raises:
        TetherError: for what is not an image, as of `as_image`.
    """
    if isinstance(value, (list, tuple)):
        return [one for each in value for one in as_maps(each, what)]
    if isinstance(value, Image.Image):
        return [value]
    if isinstance(value, (str, Path)):
        return [open_map(Path(value))]
    if isinstance(value, Tensor):
        pixels = value.detach().float() if value.is_floating_point() else value.detach()
        value = pixels.cpu().movedim(-3, -1).numpy() if value.ndim >= 3 else pixels.cpu().numpy()
    if not isinstance(value, np.ndarray):
        raise TetherError(f"{what} is a {type(value).__name__}: expected an image, an array, a tensor or a path")
    if value.ndim == 4:
        return [_of_array(one, what) for one in value]
    return [_of_array(value, what)]


def _of_array(array: np.ndarray, what: str) -> Map:
    """`(H, W)` or `(H, W, C)` -> a PIL image, or bytes `(H, W, C)`."""
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or 0 in array.shape:
        raise TetherError(f"{what} has the shape {array.shape}: {_SHAPES}")
    if array.shape[2] > 16 >= array.shape[0]:
        raise TetherError(f"{what} has the shape {array.shape}, channels first: {_SHAPES}")
    if array.dtype == np.uint16 and array.shape[2] == 1 and array.max() > 255:
        return Image.fromarray(np.ascontiguousarray(array[..., 0]))
    levels = np.ascontiguousarray(_levels(array, what))
    if levels.shape[2] == 1:
        return Image.fromarray(levels[..., 0])
    return Image.fromarray(levels) if levels.shape[2] in (3, 4) else levels


def _levels(array: np.ndarray, what: str) -> np.ndarray:
    """Values of any type as bytes."""
    low, high = array.min(), array.max()
    if array.dtype == np.bool_ or (array.dtype.kind in "ui" and 0 <= low <= high == 1):
        return array.astype(np.uint8) * 255
    if array.dtype.kind in "ui" and 0 <= low <= high <= 255:
        return array.astype(np.uint8)
    if array.dtype.kind == "f" and 0 <= low <= high <= 1:  # written so that NaN fails
        return (array * 255).round().astype(np.uint8)
    raise TetherError(f"{what} has {array.dtype} values in [{low:.3g}, {high:.3g}]: expected bytes or floats in [0, 1]")


def map_pixels(condition: Map, kind: str | None, channels: int, size: tuple[int, int], rule: FitRule) -> Tensor:
    """A map fitted to a size, `(1, channels, H, W)` in [0, 1].

    Args:
        condition: the map.
        kind: of its control.
        channels: that the control takes. A gray map serves 1 and 3 of them, a color map 1 (its luminance) and 3.
        size: width and height.
        rule: "stretch", "crop" or "pad".

    Raises:
        TetherError: when the map has not as many channels.
    """
    if isinstance(condition, Image.Image) and channels in (1, 3):
        fitted = fit_map(condition, kind, size, rule)
        as_given = channels == 3 or fitted.mode == "I;16"
        return to_condition(fitted if as_given else fitted.convert("L"))[:, :channels]
    layers = np.asarray(
        condition.convert("RGBA") if channels == 4 and isinstance(condition, Image.Image) else condition
    )
    found = layers.shape[2] if layers.ndim == 3 else 1
    if found != channels:
        raise TetherError(
            f"the control takes conditions of {channels} channels, not {found}: give an array (H, W, {channels})"
        )
    nearest = find_kind(kind).resize == "nearest"
    layered = [Image.fromarray(layers[..., k]) for k in range(found)]
    fitted = [fit(one, *size, rule, pad_color=(0, 0, 0), nearest=nearest) for one in layered]
    return torch.from_numpy(np.stack([np.array(one) for one in fitted]))[None].float() / 255


def check_maps(maps: Sequence[Sequence[Map]], batch: int) -> None:
    """Raises a TetherError when a control has neither one map nor one an image."""
    for one in maps:
        if len(one) not in (1, batch):
            raise TetherError(f"a control has {len(one)} conditions for {batch} images: give one, or one an image")
