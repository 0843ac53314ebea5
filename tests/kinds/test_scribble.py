"""XDoG scribbles."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from tether.kinds import annotate
from tether.kinds.scribble import scribble_map


def shapes(size: int = 512) -> Image.Image:
    """Dark shapes of several grays and colors on a light background, slightly blurred."""
    image = Image.new("RGB", (size, size), (230, 220, 210))
    draw = ImageDraw.Draw(image)
    part = size // 16
    draw.ellipse((part, part, 6 * part, 6 * part), fill=(60, 70, 80))
    draw.rectangle((8 * part, 3 * part, 14 * part, 7 * part), fill=(150, 40, 90))
    draw.line((2 * part, 9 * part, 14 * part, 14 * part), fill=(20, 30, 120), width=part // 8)
    return Image.fromarray(cv2.GaussianBlur(np.asarray(image), (0, 0), size / 512))


def grown(mask: np.ndarray, radius: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * radius + 1,) * 2, np.uint8)) > 0


def test_lines_are_those_of_the_formula_at_the_original_settings() -> None:
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
    # The two kernels are truncated at different lengths: pixels very close to the threshold may differ.
    assert np.array_equal(lines[abs(value - 32) > 0.5], (value > 32)[abs(value - 32) > 0.5])


@pytest.mark.parametrize("thickness", [2, 3, 8])
def test_strokes_cover_the_lines_and_reach_no_farther_than_the_pen(thickness: int) -> None:
    pixels = np.asarray(shapes())
    lines, strokes = (scribble_map(pixels, thickness=width) > 0 for width in (1, thickness))
    assert (strokes | ~lines).all()
    assert (~strokes | grown(lines, thickness // 2)).all()
    opened = cv2.morphologyEx(strokes.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    assert opened.sum() > 0.98 * strokes.sum()


def test_black_lines_on_white_are_drawn_however_strong_they_are() -> None:
    """Twice their difference exceeds 255."""
    image = Image.new("RGB", (512, 512), "white")
    ImageDraw.Draw(image).line((0, 256, 511, 256), fill="black", width=2)
    strokes = np.asarray(annotate("scribble", image))[..., 0]
    assert strokes[255:258].all()
    assert not strokes[:250].any()
    assert not strokes[263:].any()


def test_edges_between_two_colors_are_drawn_unless_the_original_rule_is_chosen() -> None:
    image = Image.new("RGB", (256, 256), (255, 0, 0))
    ImageDraw.Draw(image).rectangle((60, 60, 190, 190), fill=(0, 0, 255))
    assert np.asarray(annotate("scribble", image)).any()
    assert not np.asarray(annotate("scribble", image, color=0)).any()


def test_the_scribble_of_a_larger_image_is_the_larger_scribble() -> None:
    small = scribble_map(np.asarray(shapes(512)), thickness=2) > 0
    large = scribble_map(np.asarray(shapes(1024)), thickness=4) > 0
    reduced = cv2.resize(large.astype(np.float32), (512, 512), interpolation=cv2.INTER_AREA) >= 0.5
    assert (small & reduced).sum() > 0.85 * (small | reduced).sum()


def test_a_higher_threshold_draws_less_and_only_what_a_lower_one_draws() -> None:
    pixels = np.asarray(shapes())
    low, high = (scribble_map(pixels, threshold) > 0 for threshold in (16, 64))
    assert high.sum() < low.sum()
    assert (low | ~high).all()


def test_noise_and_flat_images_are_black() -> None:
    assert not scribble_map(np.full((64, 64, 3), 128, np.uint8)).any()
    rng = np.random.default_rng(0)
    noise = rng.normal(128, 6, (256, 256, 3)).clip(0, 255).astype(np.uint8)
    assert (scribble_map(noise) > 0).mean() < 0.005


def test_strokes_are_black_and_white_and_the_older_name_of_an_option_works() -> None:
    strokes = annotate("scribble", shapes(128).convert("L"))
    assert strokes.mode == "RGB"
    assert set(np.unique(np.asarray(strokes))) == {0, 255}
    red = Image.new("RGB", (256, 256), (255, 0, 0))
    ImageDraw.Draw(red).rectangle((60, 60, 190, 190), fill=(0, 0, 255))
    assert annotate("scribble", red, colour=0).tobytes() == annotate("scribble", red, color=0).tobytes()
