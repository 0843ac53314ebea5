"""The sizes of training images: one, or aspect buckets, sizes of nearly the same area.

Each image is cropped to the bucket whose aspect ratio is nearest to its own, so that less of it is cut away. The sides
are multiples of a step, which is a multiple of the autoencoder's factor (aspect buckets were introduced by NovelAI's
"aspect ratio bucketing"; the SDXL paper, arXiv:2307.01952, section 2.3, trains so).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from tether.base import Base
from tether.errors import TetherError

__all__ = ["Resolution", "Size"]

Size = tuple[int, int]
"""Width and height in pixels."""

_LONGEST = 2
"""No bucket's side is above this times the square root of the area, or below one over it: ratios from 1:4 to 4:1."""
_MOST_FACTORS = 8
"""The largest step by default, in factors of the autoencoder: 64 pixels for a factor of 8, from 512 pixels on."""


@dataclass(frozen=True)
class Resolution:
    """The sizes of training images.

    Attributes:
        width, height: in pixels; with buckets, they say the area.
        step: what the buckets' sides are multiples of; None without buckets.
    """

    width: int
    height: int
    step: int | None = None

    @classmethod
    def of(
        cls, base: Base, wanted: int | Size | None = None, buckets: bool = False, step: int | None = None
    ) -> Resolution:
        """The resolution for a base.

        Args:
            base: the base.
            wanted: side of a square, or width and height; by default the base's own.
            buckets: whether there are buckets.
            step: of their sides; by default an eighth of the images' side, at most 8 factors of the autoencoder.

        Raises:
            TetherError: when a side or the step is not a multiple of the autoencoder's factor.
        """
        wanted, factor = base.sample_size if wanted is None else wanted, base.latent_factor
        width, height = (wanted, wanted) if isinstance(wanted, int) else wanted
        for side in (width, height):
            if side < 1 or side % factor:
                said = str(width) if width == height else f"{width}x{height}"
                raise TetherError(f"resolution is {said}: give a multiple of {factor}")
        if not buckets:
            return cls(width, height)
        if step is None:
            step = factor * min(_MOST_FACTORS, max(1, round(math.sqrt(width * height) / (8 * factor))))
        if step < 1 or step % factor:
            raise TetherError(f"bucket_step is {step}: give a multiple of {factor}")
        return cls(width, height, step)

    @cached_property
    def sizes(self) -> tuple[Size, ...]:
        """All sizes, from the tallest to the widest; none has a larger area than `width` x `height`."""
        found, step = {(self.width, self.height)}, self.step
        if step is not None:
            area = self.width * self.height
            shortest = math.ceil(math.sqrt(area) / _LONGEST / step) * step
            for short in range(max(step, shortest), math.isqrt(area) + 1, step):
                long = min(area // short, math.isqrt(area) * _LONGEST) // step * step
                if long >= short:
                    found |= {(short, long), (long, short)}
        return tuple(sorted(found, key=lambda size: (size[0] / size[1], size)))

    def nearest(self, image: Size) -> Size:
        """The size whose aspect ratio is nearest to an image's; of two, the one nearer to a square."""
        if len(self.sizes) == 1:
            return self.sizes[0]
        aspect = math.log(image[0] / image[1])
        return min(self.sizes, key=lambda size: (round(abs(math.log(size[0] / size[1]) - aspect), 9), max(size)))

    @property
    def shorter(self) -> int:
        """What the shorter side of an image must have so that its crop is not enlarged, if it has the crop's shape.

        With buckets, the side of a square of the same area.
        """
        return min(self.width, self.height) if self.step is None else math.isqrt(self.width * self.height)

    @property
    def built_size(self) -> int:
        """To how many pixels the shorter side of an image is reduced, so that crops of any image can differ."""
        return (max(self.width, self.height) if self.step is None else self.shorter) * 9 // 8

    @property
    def described(self) -> int | str | list[int]:
        """As it identifies a cache: the side, "WIDTHxHEIGHT", or with buckets width, height and step."""
        if self.step is not None:
            return [self.width, self.height, self.step]
        return self.width if self.width == self.height else str(self)

    @property
    def said(self) -> str:
        """In words, for messages."""
        if self.step is not None:
            return f"their buckets, which have the area of {self}"
        return f"{self.width} pixels" if self.width == self.height else f"{self} pixels"

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"
