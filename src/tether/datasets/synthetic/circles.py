"""Filled circles on plain backgrounds: the set of the ControlNet tutorial (fill50k), drawn on the fly.

The image is a disc of one named color on another, the condition is the disc's outline, white on black, and the caption
names both colors: "pale golden rod circle with old lace background". The outline has no color and the caption no
position, so it is easy to see whether a control has learned.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageColor

from tether.datasets.source import Sample, Source

__all__ = ["COLORS", "Circles", "draw_circle"]

NAMES = (
    "alice blue, antique white, aquamarine, azure, beige, black, blue, blue violet, brown, burly wood, cadet blue, "
    "chartreuse, chocolate, coral, cornflower blue, crimson, cyan, dark blue, dark cyan, dark golden rod, dark gray, "
    "dark green, dark khaki, dark magenta, dark orange, dark orchid, dark red, dark salmon, dark sea green, dark "
    "slate blue, dark turquoise, dark violet, deep pink, deep sky blue, dim gray, dodger blue, fire brick, forest "
    "green, gold, golden rod, gray, green, green yellow, hot pink, indian red, indigo, ivory, khaki, lavender, lawn "
    "green, lemon chiffon, light blue, light coral, light green, light pink, light salmon, light sea green, light sky "
    "blue, lime, lime green, magenta, maroon, medium aquamarine, medium blue, medium orchid, medium purple, medium "
    "sea green, medium slate blue, medium violet red, midnight blue, mint cream, misty rose, navy, old lace, olive, "
    "olive drab, orange, orange red, orchid, pale golden rod, pale green, pale turquoise, papaya whip, peach puff, "
    "peru, pink, plum, powder blue, purple, red, rosy brown, royal blue, saddle brown, salmon, sandy brown, sea "
    "green, sea shell, sienna, silver, sky blue, slate blue, slate gray, snow, spring green, steel blue, tan, teal, "
    "thistle, tomato, turquoise, violet, wheat, white, yellow, yellow green"
)
COLORS = {name: ImageColor.getrgb(name.replace(" ", ""))[:3] for name in NAMES.split(", ")}
"""CSS colors, RGB in 0..255, by their names in words."""

LEAST_DIFFERENCE = 120
"""Least sum over the channels of the difference between disc and background, so that the disc is visible."""
SHIFT = 4
"""OpenCV draws at 1/16 of a pixel."""


def draw_circle(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, str]:
    """A random disc.

    Returns:
        The image and the outline, uint8 `(size, size, 3)` RGB each, and the caption.
    """
    names = list(COLORS)
    while True:
        disc, ground = (names[int(i)] for i in rng.choice(len(names), 2, replace=False))
        if sum(abs(a - b) for a, b in zip(COLORS[disc], COLORS[ground], strict=True)) >= LEAST_DIFFERENCE:
            break
    radius = rng.uniform(0.08, 0.35)
    center = rng.uniform(radius, 1 - radius, 2)
    place = [round(float(c) * size * 2**SHIFT) for c in center]
    extent = round(float(radius) * size * 2**SHIFT)
    image = np.full((size, size, 3), COLORS[ground], np.uint8)
    cv2.circle(image, place, extent, COLORS[disc], -1, cv2.LINE_AA, SHIFT)
    outline = np.zeros((size, size, 3), np.uint8)
    cv2.circle(outline, place, extent, (255, 255, 255), max(1, size // 256), cv2.LINE_8, SHIFT)
    return image, outline, f"{disc} circle with {ground} background"


class Circles(Source):
    """`count` discs; disc n is a function of n and `size`. Those that are held out are drawn from other numbers."""

    layout = "circles"
    is_shuffled = True
    has_conditions = True

    def __init__(self, size: int, count: int, held_out: bool = False) -> None:
        self.side, self.count, self.stream = size, count, 0x0C1D if held_out else 0x0C1C

    def __len__(self) -> int:
        return self.count

    def key(self, index: int) -> str:
        return f"circle-{index:06d}"

    def sample(self, index: int, kind: str | None = None) -> Sample:
        image, outline, caption = draw_circle(self.side, np.random.default_rng([self.stream, index]))
        return Sample(self.key(index), Image.fromarray(image), caption, Image.fromarray(outline))

    def size(self, index: int) -> tuple[int, int]:
        return self.side, self.side

    def listing(self) -> list[Any]:
        return [self.side, self.count, *(["held out"] if self.stream != 0x0C1C else [])]
