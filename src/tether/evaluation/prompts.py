"""Prompt agreement without a trained text network: do the colors that a prompt names show where it names them?

A prompt makes claims:

    "a shiny red cube ... on a grey floor, blue background"      red cube, grey floor, blue background
    "a red apple, 3d emoji, yellow background"                   red somewhere, yellow background

Each holds or not, and the score is the share of claims that hold, over all pictures. Pixels are named by the nearest of
twelve colors in CIELAB, where lightness counts less, as shading changes it. A background is judged by the upper edge of
a picture, a floor by its lower edge, a solid by the pixels that the judge of scenes gives its shape; what is not known
where, by the whole picture. It sees colors and the shapes of scenes: not names of things, not poses, not places.

How far it can be trusted is measured with it: on the sources themselves (all claims are true), and on the sources with
the colors of their prompts exchanged (`exchanged`; all claims about them are false).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from PIL import Image

from tether.datasets.synthetic.emoji import BACKGROUNDS
from tether.datasets.synthetic.scenes import CLASS_NAMES, COLORS
from tether.kinds.measures import Measure, Numbers, Table

__all__ = ["PROMPT", "Claim", "agreement", "claims", "exchanged"]

SHAPES = ("sphere", "cube", "cylinder", "cone", "torus", "mannequin")
LIGHTNESS = 0.45
"""How much a difference of lightness counts."""
EDGE, LEAST_EDGE = 0.06, 0.5
"""The part of the height that is the upper or lower edge, and the share of it that has the color."""
LEAST_SHAPE, LEAST_OF_SHAPE = 0.004, 0.12
"""The share of the picture that a shape covers, and the share of the shape that has its color."""
LEAST_SOMEWHERE = 0.03
_NAMED = re.compile(rf"\b({'|'.join(COLORS)})\b(?: ([a-z]+))?")


@dataclass(frozen=True)
class Claim:
    """A color that a prompt names, and of what: "background", "floor", a shape, or "" where that is not known."""

    color: str
    what: str


def claims(prompt: str) -> list[Claim]:
    """The claims of a prompt, each once."""
    found = [
        Claim(match[1], match[2] if match[2] in ("background", "floor", *SHAPES) else "")
        for match in _NAMED.finditer(prompt.lower())
    ]
    return list(dict.fromkeys(found))


def exchanged(prompt: str) -> str:
    """The prompt with each color that it names exchanged for one that it does not name."""
    named = {match[1] for match in _NAMED.finditer(prompt.lower())}
    others = [color for color in COLORS if color not in named]
    order = list(COLORS)

    def other(match: re.Match[str]) -> str:
        changed = others[(5 * order.index(match[1]) + 3) % len(others)]
        return match[0].replace(match[1], changed, 1)

    return _NAMED.sub(other, prompt.lower())


def agreement(pixels: np.ndarray, prompt: str, classes: Callable[[Image.Image], np.ndarray] | None = None) -> Numbers:
    """How many claims of a prompt hold in a picture.

    Args:
        pixels: uint8 `(H, W, 3)` RGB.
        prompt: the prompt.
        classes: a picture -> the class of each pixel (`Judge.classes`), for pictures of scenes.

    Returns:
        "claims", and "held".
    """
    made = claims(prompt)
    if not made:
        return {"claims": 0.0, "held": 0.0}
    names = _named(pixels)
    of_shape = None
    if classes is not None and any(one.what in SHAPES for one in made):
        found = Image.fromarray(classes(Image.fromarray(pixels)).astype(np.uint8))
        of_shape = np.asarray(found.resize(pixels.shape[1::-1], Image.Resampling.NEAREST))
    held = sum(_holds(one, names, of_shape) for one in made)
    return {"claims": float(len(made)), "held": float(held)}


def _holds(claim: Claim, names: np.ndarray, of_shape: np.ndarray | None) -> bool:
    color = list(COLORS).index(claim.color)
    edge = max(1, round(EDGE * len(names)))
    if claim.what == "background":
        return bool((names[:edge] == color).mean() >= LEAST_EDGE)
    if claim.what == "floor":
        return bool((names[-edge:] == color).mean() >= LEAST_EDGE)
    if of_shape is None or not claim.what:
        return bool((names == color).mean() >= LEAST_SOMEWHERE)
    inside = names[of_shape == CLASS_NAMES.index(claim.what)]
    return inside.size >= LEAST_SHAPE * names.size and bool((inside == color).mean() >= LEAST_OF_SHAPE)


def _named(pixels: np.ndarray) -> np.ndarray:
    """The number of the color of `COLORS` that each pixel `(H, W, 3)` is nearest to, `(H, W)`."""
    palette, numbers = _palette()
    lab = _lab(pixels)
    distance = np.square(lab[:, :, None] - palette).sum(axis=3)
    return numbers[distance.argmin(axis=2)]


@cache
def _palette() -> tuple[np.ndarray, np.ndarray]:
    """Colors of solids, lit and in shadow, and of backgrounds, `(N, 3)`, and the number of each one's name."""
    rows, numbers = [], []
    for number, (name, rgb) in enumerate(COLORS.items()):
        tones = [np.array(rgb), np.array(BACKGROUNDS[name])]
        if name not in ("black", "white", "grey"):
            tones.append(np.array(rgb) * 0.55)
        rows += tones
        numbers += [number] * len(tones)
    return _lab(np.array([rows], np.uint8))[0], np.array(numbers)


def _lab(pixels: np.ndarray) -> np.ndarray:
    lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return lab * np.array([LIGHTNESS, 1, 1], np.float32)


def _share(table: Table) -> float:
    total = table["claims"].sum()
    return float(table["held"].sum() / total) if total else float("nan")


PROMPT = Measure("prompt", "prompt agreement", pool=_share)
