"""Conditions from clear to ambiguous, made from maps of light lines on black.

whole          the map
swept 1/f      one side of it: the f-th part of its cells that has lines, the rest erased
dashed 1/f     cells of it, in random order, the rest erased: lines become dashes
specks         as many light pixels, anywhere
noise          three of ten pixels are light
blank          black
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np

__all__ = ["BLANK", "LEVELS", "QUICK_LEVELS", "WHOLE", "made_ambiguous"]

WHOLE, BLANK = "whole", "blank"
CELL = 8
"""Side in pixels of the cells that are erased."""
NOISE = 0.3


def made_ambiguous(pixels: np.ndarray, level: str, key: str) -> np.ndarray:
    """A map on a level of `LEVELS`.

    Args:
        pixels: the map, uint8 `(H, W, 3)`, sides of multiples of `CELL`.
        level: the level.
        key: of the case: what is random is a function of it, and a stronger level erases more of the same.
    """
    rng = np.random.default_rng(int(hashlib.sha256(key.encode()).hexdigest()[:16], 16))
    return LEVELS[level](pixels, rng)


def _kept(pixels: np.ndarray, order: np.ndarray, part: float) -> np.ndarray:
    """The map with a part of its cells that have lines, the first of an order `(H / CELL, W / CELL)`, and no others."""
    rows, columns = order.shape
    has_lines = pixels.reshape(rows, CELL, columns, CELL, -1).any(axis=(1, 3, 4))
    if not has_lines.any():
        return pixels
    last = np.sort(order[has_lines])[max(1, round(part * has_lines.sum())) - 1]
    kept = has_lines & (order <= last)
    return pixels * kept.repeat(CELL, axis=0).repeat(CELL, axis=1)[..., None]


def _swept(part: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    def sweep(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        y, x = np.mgrid[: pixels.shape[0] // CELL, : pixels.shape[1] // CELL]
        angle = rng.uniform(0, 2 * np.pi)
        return _kept(pixels, np.cos(angle) * x + np.sin(angle) * y, part)

    return sweep


def _dashed(part: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    def dash(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return _kept(pixels, rng.random((pixels.shape[0] // CELL, pixels.shape[1] // CELL)), part)

    return dash


def _speckled(share: float | None) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """Light pixels anywhere: a share of all, or as many as the map has."""

    def speckle(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        light = rng.random(pixels.shape[:2]) < (pixels.any(axis=2).mean() if share is None else share)
        return (light * np.uint8(255))[..., None].repeat(3, axis=2)

    return speckle


LEVELS: Mapping[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    WHOLE: lambda pixels, rng: pixels,
    "swept 1/2": _swept(1 / 2),
    "swept 1/4": _swept(1 / 4),
    "swept 1/8": _swept(1 / 8),
    "swept 1/16": _swept(1 / 16),
    "dashed 1/2": _dashed(1 / 2),
    "dashed 1/4": _dashed(1 / 4),
    "specks": _speckled(None),
    "noise": _speckled(NOISE),
    BLANK: lambda pixels, rng: np.zeros_like(pixels),
}
QUICK_LEVELS = (WHOLE, "swept 1/4", BLANK)
