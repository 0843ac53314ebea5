"""Emoji as training pictures: a transparent drawing, its names, and the background it is put on.

A drawing is an RGBA array with straight alpha. `compose` places it on a plain background,

    picture = alpha * drawing + (1 - alpha) * background,

after a random flip, shift and scale, so that a model learns to draw the thing and not to recall the file.
The background's colour is named in the caption, which makes it something that a prompt can ask for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np

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
"""Named background colours, RGB in 0..255."""

HELD_OUT_SHARE = 0.05
SIDED = {"left", "right", "leftwards", "rightwards", "waxing", "waning", "quarter"}
"""Words of names that a mirrored drawing would belie."""


@dataclass(frozen=True)
class Drawing:
    """One emoji in one style.

    Attributes:
        name: the Unicode name in lower case, "red apple".
        synonyms: other words for it, best first; may be empty.
        style: the words that ask for the style, "3d emoji" or "flat emoji".
        rgba: uint8 `(H, W, 4)`, straight alpha.
    """

    name: str
    synonyms: tuple[str, ...]
    style: str
    rgba: np.ndarray


def is_held_out(name: str) -> bool:
    """Whether no training may see the emoji of this name: a fixed 5% of all names, by their SHA-256."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def place(
    rgba: np.ndarray, size: int, background: tuple[int, int, int], scale: float, shift: tuple[float, float]
) -> np.ndarray:
    """Puts a drawing on a plain background.

    Args:
        rgba: uint8 `(H, W, 4)`, straight alpha.
        size: side of the picture in pixels.
        background: RGB in 0..255.
        scale: side of the drawing as a share of the picture's.
        shift: how far right and down the drawing's centre lies from the picture's, in shares of the side.

    Returns:
        uint8 `(size, size, 3)`, RGB.
    """
    # Interpolating straight alpha would pull the colour of transparent pixels into the edges.
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
    picture = warped[..., :3] + (1 - warped[..., 3:]) * np.array(background, np.float32)
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def compose(drawing: Drawing, size: int, rng: np.random.Generator, *, centred: bool = False) -> tuple[np.ndarray, str]:
    """One random training picture of a drawing and the name of its background.

    A little more than half of the backgrounds are white. The flip is left out where the name says a side ("left arrow",
    "waxing crescent moon symbol"). With `centred` the drawing is never flipped, and lies in the middle but for 2% of
    the side, 87% to 93% of it wide.

    Returns:
        The picture, uint8 `(size, size, 3)` RGB, and a key of `BACKGROUNDS`.
    """
    background = "white" if rng.random() < 0.5 else str(rng.choice(list(BACKGROUNDS)))
    rgba = drawing.rgba
    if not centred and rng.random() < 0.5 and not SIDED & set(drawing.name.replace("-", " ").split()):
        rgba = np.ascontiguousarray(rgba[:, ::-1])
    scale = rng.uniform(0.87, 0.93) if centred else rng.uniform(0.72, 0.98)
    slack = 0.02 if centred else (1 - scale) / 2 + 0.02
    shift = (rng.uniform(-slack, slack), rng.uniform(-slack, slack))
    return place(rgba, size, BACKGROUNDS[background], scale, shift), background


def caption(drawing: Drawing, background: str, rng: np.random.Generator) -> str:
    """Words for a picture of a drawing: its name or, now and then, a synonym, in one of a few plain templates.

    The style always stands in the caption; the background does unless it is white, and then in one of four captions:
    a prompt without one asks for white.
    """
    name = drawing.name
    if drawing.synonyms and rng.random() < 0.25:
        name = drawing.synonyms[int(rng.integers(len(drawing.synonyms)))]
    article = "an" if name[0] in "aeiou" and not name.startswith(("uni", "one")) else "a"
    template = ("{n}, {s}", "{a} {n}, {s}", "{n} {s}", "{s} of {a} {n}")[int(rng.choice(4, p=[0.4, 0.35, 0.1, 0.15]))]
    words = template.format(n=name, a=article, s=drawing.style)
    named = rng.random() < 0.25 or background != "white"
    return f"{words}, {background} background" if named else words
