"""XDoG scribbles."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from tether.errors import TetherError
from tether.kinds import annotate
from tether.kinds.scribble import scribble_map


def shapes(size: int = 512) -> Image.Image:
    """Dark shapes of several greys and colours on a light ground, seen through a soft lens."""
    picture = Image.new("RGB", (size, size), (230, 220, 210))
    draw = ImageDraw.Draw(picture)
    part = size // 16
    draw.ellipse((part, part, 6 * part, 6 * part), fill=(60, 70, 80))
    draw.rectangle((8 * part, 3 * part, 14 * part, 7 * part), fill=(150, 40, 90))
    draw.line((2 * part, 9 * part, 14 * part, 14 * part), fill=(20, 30, 120), width=part // 8)
    return Image.fromarray(cv2.GaussianBlur(np.asarray(picture), (0, 0), size / 512))


def grown(mask: np.ndarray, radius: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * radius + 1,) * 2, np.uint8)) > 0


def test_lines_are_those_of_the_formula_at_the_released_settings() -> None:
    """G_5 * x - G_0.5 * x as sums over separable kernels; the least of the channels, twice, above 32."""
    pixels = np.asarray(shapes())

    def blurred(deviation: float) -> np.ndarray:
        reach = np.arange(-30, 31)
        kernel = np.exp(-(reach**2) / (2 * deviation**2))
        kernel /= kernel.sum()
        padded = np.pad(pixels.astype(float), ((30, 30), (30, 30), (0, 0)), "reflect")
        rows = sum(w * padded[k : k + 512] for k, w in enumerate(kernel))
        return sum(w * rows[:, k : k + 512] for k, w in enumerate(kernel))

    value = 2 * (blurred(5.0) - blurred(0.5)).min(axis=2)
    lines = scribble_map(pixels, threshold=32, thickness=1, color=0) > 0
    assert lines.sum() > 1000
    # The two kernels are cut off at other lengths: nothing is asked of pixels that are a hair from the threshold.
    assert np.array_equal(lines[abs(value - 32) > 0.5], (value > 32)[abs(value - 32) > 0.5])


@pytest.mark.parametrize("thickness", [2, 3, 8])
def test_the_pen_sweeps_the_lines_and_goes_no_farther(thickness: int) -> None:
    pixels = np.asarray(shapes())
    lines, strokes = (scribble_map(pixels, thickness=width) > 0 for width in (1, thickness))
    assert (strokes | ~lines).all()
    assert (~strokes | grown(lines, thickness // 2)).all()
    opened = cv2.morphologyEx(strokes.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    assert opened.sum() > 0.98 * strokes.sum()


def test_black_lines_on_white_are_drawn_however_strong_they_are() -> None:
    """Twice their difference is more than a byte holds."""
    picture = Image.new("RGB", (512, 512), "white")
    ImageDraw.Draw(picture).line((0, 256, 511, 256), fill="black", width=2)
    strokes = np.asarray(annotate("scribble", picture))[..., 0]
    assert strokes[255:258].all()
    assert not strokes[:250].any()
    assert not strokes[263:].any()


def test_edges_of_one_colour_against_another_are_drawn_unless_the_released_way_is_asked_for() -> None:
    picture = Image.new("RGB", (256, 256), (255, 0, 0))
    ImageDraw.Draw(picture).rectangle((60, 60, 190, 190), fill=(0, 0, 255))
    assert np.asarray(annotate("scribble", picture)).any()
    assert not np.asarray(annotate("scribble", picture, colour=0)).any()


def test_the_scribble_of_a_larger_picture_is_the_larger_scribble() -> None:
    small = scribble_map(np.asarray(shapes(512)), thickness=2) > 0
    large = scribble_map(np.asarray(shapes(1024)), thickness=4) > 0
    reduced = cv2.resize(large.astype(np.float32), (512, 512), interpolation=cv2.INTER_AREA) >= 0.5
    assert (small & reduced).sum() > 0.85 * (small | reduced).sum()


def test_a_higher_threshold_draws_less_and_only_what_a_lower_one_draws() -> None:
    pixels = np.asarray(shapes())
    low, high = (scribble_map(pixels, threshold) > 0 for threshold in (16, 64))
    assert high.sum() < low.sum()
    assert (low | ~high).all()


def test_grain_and_even_ground_are_black() -> None:
    assert not scribble_map(np.full((64, 64, 3), 128, np.uint8)).any()
    rng = np.random.default_rng(0)
    noise = rng.normal(128, 6, (256, 256, 3)).clip(0, 255).astype(np.uint8)
    assert (scribble_map(noise) > 0).mean() < 0.005


def test_every_size_and_mode_is_annotated_in_black_and_white() -> None:
    for size in ((1, 1), (1, 90), (33, 7)):
        assert annotate("scribble", Image.new("L", size, 90)).size == size
    strokes = annotate("scribble", shapes(128).convert("L"))
    assert strokes.mode == "RGB"
    assert set(np.unique(np.asarray(strokes))) == {0, 255}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"treshold": 3}, "no option"),
        ({"threshold": 0}, "from 1"),
        ({"thickness": 99}, "to 32"),
        ({"colour": 2}, "to 1"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(options: dict, words: str) -> None:
    with pytest.raises(TetherError, match=words):
        annotate("scribble", shapes(64), **options)
