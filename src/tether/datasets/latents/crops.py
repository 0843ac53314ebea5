"""The random crops and flips of a sample, the same for image and condition.

A crop is a square of side s at (left, top), resized to the training resolution R. The first one of a sample is always
the largest in the middle, unflipped. s is never below R unless the image is smaller than R, so nothing is enlarged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tether.datasets.holes import fit_holes
from tether.datasets.sided import names_a_side, names_writing
from tether.images import fit
from tether.kinds import fit_map, flip_map, flip_of, kinds, mirror

__all__ = ["Crop", "formerly_mirrored", "may_flip", "random_crops"]

LEAST_SHARE = 0.8
"""A crop's side is at least this share of the image's shorter one."""


@dataclass(frozen=True)
class Crop:
    """A square of an image, optionally mirrored left to right. In pixels of the image."""

    left: int
    top: int
    side: int
    flip: bool

    def of_image(self, image: Image.Image, resolution: int) -> Image.Image:
        """The crop of an image, `resolution` pixels a side."""
        cut = fit(image.crop(self._box), resolution, resolution, "stretch")
        return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flip else cut

    def of_condition(self, image: Image.Image, kind: str, resolution: int) -> Image.Image:
        """The crop of a condition map, resized and mirrored by the rules of its kind; RGBA stays RGBA, with holes."""
        if image.mode == "RGBA":
            cut = fit_holes(image.crop(self._box), (resolution, resolution))
            return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flip else cut
        cut, flip = image.crop(self._box), flip_of(kind) if self.flip else None
        if flip is not None and flip is not mirror:
            cut = flip_map(cut, kind)  # before resizing, which would blend the colors that it exchanges
        fitted = fit_map(cut, kind, (resolution, resolution), "stretch")
        return fitted.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip is mirror else fitted

    @property
    def _box(self) -> tuple[int, int, int, int]:
        return self.left, self.top, self.left + self.side, self.top + self.side


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


def random_crops(
    width: int, height: int, resolution: int, count: int, flips: bool, rng: np.random.Generator
) -> list[Crop]:
    """The crops of an image of `width` x `height` pixels: the middle one, then `count - 1` random ones."""
    short = min(width, height)
    crops = [Crop((width - short) // 2, (height - short) // 2, short, False)]
    least = min(short, max(resolution, round(LEAST_SHARE * short)))
    while len(crops) < count:
        side = int(rng.integers(least, short + 1))
        left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
        flip = bool(rng.random() < 0.5)
        crops.append(Crop(left, top, side, flip and flips))
    return crops
