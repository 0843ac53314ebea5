"""Lines that were saved as JPEG are lines again, and nothing soft is taken for them."""

from __future__ import annotations

import io
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from tether.images import fit_condition
from tether.images.lossy import as_black_and_white

SIDE = 256


def jpeg(image: Image.Image, quality: int, mode: str = "RGB") -> Image.Image:
    file = io.BytesIO()
    image.convert(mode).save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def strokes(width: int, factor: int = 1) -> Image.Image:
    """Lines in all directions, drawn larger by a factor."""
    image = Image.new("L", (SIDE * factor, SIDE * factor))
    draw = ImageDraw.Draw(image)
    for x, y in np.random.default_rng(width).integers(0, SIDE * factor, (6, 2)):
        draw.line((int(x), int(y), SIDE * factor - int(y), int(x)), fill=255, width=width * factor)
    draw.ellipse((90, 60, 90 + 120 * factor, 60 + 150 * factor), outline=255, width=width * factor)
    return image


def canny() -> Image.Image:
    noise = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE)).astype(np.float32), (0, 0), 4)
    levels = cv2.normalize(noise, np.empty_like(noise), 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return Image.fromarray(cv2.Canny(levels, 40, 80))


def inverted(image: Image.Image) -> Image.Image:
    return image.point(lambda level: 255 - level)


HARD: dict[str, Callable[[], Image.Image]] = {
    "canny": canny,
    "1 px": lambda: strokes(1),
    "3 px": lambda: strokes(3),
    "20 px": lambda: strokes(20),
    "black on white": lambda: inverted(strokes(2)),
}


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("quality", [50, 75, 95])
@pytest.mark.parametrize("name", HARD)
def test_lines_are_what_they_were_before_jpeg(name: str, quality: int, mode: str) -> None:
    before = HARD[name]()
    after = as_black_and_white(jpeg(before, quality, mode))
    assert after is not None
    assert (np.asarray(after.convert("L")) != np.asarray(before)).mean() < 1e-3


@pytest.mark.parametrize("side", [64, 100, 512])
@pytest.mark.parametrize("name", ["canny", "1 px", "20 px"])
def test_lines_of_a_jpeg_are_resized_as_those_of_a_png(name: str, side: int) -> None:
    before = HARD[name]()
    expected, fitted = (np.asarray(fit_condition(one, side, side)) for one in (before, jpeg(before, 85)))
    assert set(np.unique(fitted)) == {0, 255}
    assert (fitted != expected).mean() < 2e-3


def test_a_jpeg_of_the_size_that_is_drawn_stays_as_it_is() -> None:
    noisy = jpeg(strokes(1), 80)
    assert fit_condition(noisy, SIDE, SIDE).tobytes() == noisy.tobytes()


def soft() -> Image.Image:
    edges = cv2.GaussianBlur(np.asarray(strokes(2)).astype(np.float32), (0, 0), 2)
    return Image.fromarray(np.clip(edges * 2, 0, 255).astype(np.uint8))


def faint(level: int, ground: int) -> Image.Image:
    """One strong line, and one that is hardly seen."""
    image = Image.new("L", (SIDE, SIDE), ground)
    draw = ImageDraw.Draw(image)
    draw.line((10, 10, 240, 100), fill=255 - ground, width=2)
    draw.line((10, 200, 240, 180), fill=level, width=2)
    return image


def ramp() -> Image.Image:
    return Image.fromarray(np.linspace(0, 255, SIDE).astype(np.uint8)[None].repeat(SIDE, axis=0))


SOFT: dict[str, Callable[[], Image.Image]] = {
    "antialiased 1 px": lambda: strokes(1, 4).resize((SIDE, SIDE), Image.Resampling.BOX),
    "antialiased 6 px": lambda: strokes(6, 4).resize((SIDE, SIDE), Image.Resampling.BOX),
    "antialiased 30 px": lambda: strokes(30, 4).resize((SIDE, SIDE), Image.Resampling.BOX),
    "soft edges": soft,
    "a faint line": lambda: faint(50, 0),
    "a faint line on white": lambda: faint(215, 255),
    "depth": ramp,
    "black": lambda: Image.new("L", (SIDE, SIDE)),
    "colors": lambda: Image.merge("RGB", [strokes(3), strokes(2), strokes(3)]),
}


@pytest.mark.parametrize("quality", [None, 30, 75, 95])
@pytest.mark.parametrize("name", SOFT)
def test_what_is_soft_stays_soft(name: str, quality: int | None) -> None:
    image = SOFT[name]().convert("RGB")
    assert as_black_and_white(image if quality is None else jpeg(image, quality)) is None
