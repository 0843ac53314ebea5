"""The random crops and flips of a sample, the same for image and condition.

A crop has the shape of the training images, W x H: it is w pixels wide, lies at (left, top), and is resized to W x H.
The first one of a sample is always the largest in the middle, unflipped. w is never below W unless the image is too
small for it, so nothing is enlarged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tether.datasets.holes import fit_holes
from tether.datasets.latents.resolution import Size
from tether.datasets.sided import names_a_side, names_writing
from tether.images import fit
from tether.kinds import fit_map, flip_map, flip_of, kinds, mirror

__all__ = ["Crop", "formerly_mirrored", "may_flip", "random_crops"]

LEAST_SHARE = 0.8
"""A crop's width is at least this share of the largest one's."""


@dataclass(frozen=True)
class Crop:
    """A part of an image, optionally mirrored left to right. In pixels of the image; its height is by its shape."""

    left: int
    top: int
    width: int
    flip: bool

    def of_image(self, image: Image.Image, size: Size) -> Image.Image:
        """The crop of an image, in a size of the crop's shape."""
        cut = fit(image.crop(self._box(image, size)), *size, "stretch")
        return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flip else cut

    def of_condition(self, image: Image.Image, kind: str, size: Size) -> Image.Image:
        """The crop of a condition map, resized and mirrored by the rules of its kind; RGBA stays RGBA, with holes."""
        if image.mode == "RGBA":
            cut = fit_holes(image.crop(self._box(image, size)), size)
            return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flip else cut
        cut, flip = image.crop(self._box(image, size)), flip_of(kind) if self.flip else None
        if flip is not None and flip is not mirror:
            cut = flip_map(cut, kind)  # before resizing, which would blend the colors that it exchanges
        fitted = fit_map(cut, kind, size, "stretch")
        return fitted.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip is mirror else fitted

    def _box(self, image: Image.Image, size: Size) -> tuple[int, int, int, int]:
        height = _height(self.width, size, image.height)
        return self.left, self.top, self.left + self.width, self.top + height


def may_flip(kind: str, caption: str, wanted: bool | None = None) -> bool:
    """Whether a sample may be mirrored: its kind allows it, and its caption names neither a side nor writing.

    Args:
        kind: of its condition.
        caption: its caption.
        wanted: None asks the kind, and an unknown kind says no: its maps may tell left from right (faces, landmarks).
            True also mirrors unknown kinds, False none.
    """
    if wanted is False or flip_of(kind) is None or (wanted is None and kind not in kinds()):
        return False
    return not names_a_side(caption) and not names_writing(caption)


def formerly_mirrored(kind: str, captions: Iterable[str]) -> bool:
    """Whether earlier versions mirrored a sample: they knew neither writing nor unknown kinds."""
    return flip_of(kind) is not None and not any(map(names_a_side, captions))


def random_crops(width: int, height: int, size: Size, count: int, flips: bool, rng: np.random.Generator) -> list[Crop]:
    """The crops of an image of `width` x `height` pixels, of the shape of `size`: the middle one, then random ones."""
    most = max(1, min(width, height * size[0] // size[1]))
    crops = [Crop((width - most) // 2, (height - _height(most, size, height)) // 2, most, False)]
    least = min(most, max(size[0], round(LEAST_SHARE * most)))
    while len(crops) < count:
        wide = int(rng.integers(least, most + 1))
        left, top = int(rng.integers(width - wide + 1)), int(rng.integers(height - _height(wide, size, height) + 1))
        flip = bool(rng.random() < 0.5)
        crops.append(Crop(left, top, wide, flip and flips))
    return crops


def _height(width: int, size: Size, most: int) -> int:
    """The height of a crop of the shape of `size` in an image whose height is `most`."""
    return max(1, min(most, round(width * size[1] / size[0])))
