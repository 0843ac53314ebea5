"""Emoji as training images: a transparent drawing, its names, and the background it is placed on.

A drawing is an RGBA array with straight alpha. `compose` places it on a plain background,

    image = alpha * drawing + (1 - alpha) * background,

after a random flip, shift and scale, so that a model learns to draw the object and does not memorize the file.
The caption names the background's color, so that a prompt can ask for it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np

from tether.datasets.sided import names_a_side

__all__ = [
    "BACKGROUNDS",
    "Drawing",
    "caption",
    "compose",
    "is_held_out",
    "place",
]

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (24, 24, 28),
    "grey": (150, 150, 155),
    "red": (214, 60, 56),
    "orange": (245, 150, 60),
    "yellow": (250, 214, 80),
    "green": (96, 180, 96),
    "cyan": (96, 205, 210),
    "blue": (72, 118, 214),
    "purple": (140, 92, 196),
    "pink": (246, 170, 196),
    "brown": (140, 98, 66),
}
"""Named background colors, RGB in 0..255."""

HELD_OUT_SHARE = 0.05


@dataclass(frozen=True)
class Drawing:
    """One emoji in one style.

    Attributes:
        name: the Unicode name in lower case, "red apple".
        synonyms: other names, best first; may be empty.
        style: the caption's words for the style, "3d emoji" or "flat emoji".
        rgba: uint8 `(H, W, 4)`, straight alpha.
    """

    name: str
    synonyms: tuple[str, ...]
    style: str
    rgba: np.ndarray


def is_held_out(name: str) -> bool:
    """Whether the emoji of this name is excluded from all training: a fixed 5% of all names, by their SHA-256."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def place(
    rgba: np.ndarray, size: int, background: tuple[int, int, int], scale: float, shift: tuple[float, float]
) -> np.ndarray:
    """Places a drawing on a plain background.

    Args:
        rgba: uint8 `(H, W, 4)`, straight alpha.
        size: side of the image in pixels.
        background: RGB in 0..255.
        scale: side of the drawing as a share of the image's.
        shift: offset of the drawing's center from the image's, right and down, as shares of the side.

    Returns:
        uint8 `(size, size, 3)`, RGB.
    """
    # Interpolating straight alpha would pull the color of transparent pixels into the edges.
    alpha = rgba[..., 3:].astype(np.float32) / 255
    premultiplied = np.concatenate([rgba[..., :3] * alpha, alpha], axis=2)
    height, width = rgba.shape[:2]
    factor = scale * size / max(height, width)
    if factor < 0.75:  # bilinear warping skips pixels below about 3/4
        new = max(1, round(width * factor)), max(1, round(height * factor))
        premultiplied = cv2.resize(premultiplied, new, interpolation=cv2.INTER_AREA)
        height, width = premultiplied.shape[:2]
        factor = 1.0
    matrix = np.array(
        [
            [factor, 0, (size - 1) / 2 + shift[0] * size - factor * (width - 1) / 2],
            [0, factor, (size - 1) / 2 + shift[1] * size - factor * (height - 1) / 2],
        ]
    )
    warped = cv2.warpAffine(premultiplied, matrix, (size, size), flags=cv2.INTER_LINEAR)
    image = warped[..., :3] + (1 - warped[..., 3:]) * np.array(background, np.float32)
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def compose(drawing: Drawing, size: int, rng: np.random.Generator, *, centered: bool = False) -> tuple[np.ndarray, str]:
    """One random training image of a drawing and the name of its background.

    A little more than half of the backgrounds are white. A drawing whose name has a handedness ("left arrow", "waxing
    crescent moon symbol") is not flipped. With `centered` the drawing is never flipped, is within 2% of the middle, and
    is 87% to 93% of the image's side wide.

    Returns:
        The image, uint8 `(size, size, 3)` RGB, and a key of `BACKGROUNDS`.
    """
    background = "white" if rng.random() < 0.5 else str(rng.choice(list(BACKGROUNDS)))
    rgba = drawing.rgba
    if not centered and rng.random() < 0.5 and not names_a_side(drawing.name):
        rgba = np.ascontiguousarray(rgba[:, ::-1])
    scale = rng.uniform(0.87, 0.93) if centered else rng.uniform(0.72, 0.98)
    slack = 0.02 if centered else (1 - scale) / 2 + 0.02
    shift = (rng.uniform(-slack, slack), rng.uniform(-slack, slack))
    return place(rgba, size, BACKGROUNDS[background], scale, shift), background


def caption(drawing: Drawing, background: str, rng: np.random.Generator) -> str:
    """A caption for an image of a drawing: its name or, in a quarter of captions, a synonym, in one of four templates.

    The style is always named. The background is named unless it is white; white is named in a quarter of the captions,
    so a prompt without a background asks for white.
    """
    name = drawing.name
    if drawing.synonyms and rng.random() < 0.25:
        name = drawing.synonyms[int(rng.integers(len(drawing.synonyms)))]
    article = "an" if name[0] in "aeiou" and not name.startswith(("uni", "one")) else "a"
    template = ("{n}, {s}", "{a} {n}, {s}", "{n} {s}", "{s} of {a} {n}")[int(rng.choice(4, p=[0.4, 0.35, 0.1, 0.15]))]
    words = template.format(n=name, a=article, s=drawing.style)
    named = rng.random() < 0.25 or background != "white"
    return f"{words}, {background} background" if named else words
