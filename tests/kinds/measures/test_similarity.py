"""MS-SSIM, GMSD and color difference: special cases by hand, and other implementations where they are installed."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tether.errors import TetherError
from tether.kinds.measures.similarity import (
    WEIGHTS,
    color_difference,
    gmsd,
    gradient_deviation,
    map_similarity,
    ms_ssim,
    scales_of,
)


def picture(side: int, seed: int = 0) -> np.ndarray:
    """Smooth random levels `(side, side)`."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray((rng.random((12, 12)) * 255).astype(np.uint8))
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC)).astype(np.float64)


def noisy(image: np.ndarray, deviation: float) -> np.ndarray:
    return np.clip(image + np.random.default_rng(1).normal(0, deviation, image.shape), 0, 255)


def test_an_image_is_like_itself_and_less_so_with_more_noise() -> None:
    image = picture(192)
    scores = [ms_ssim(image, noisy(image, deviation)) for deviation in (0, 10, 40)]
    assert scores[0] == pytest.approx(1.0)
    assert scores[0] > scores[1] > scores[2] > 0
    deviations = [gmsd(image, noisy(image, deviation)) for deviation in (0, 10, 40)]
    assert deviations[0] == 0 < deviations[1] < deviations[2]


def test_two_plain_images_differ_by_the_luminance_of_the_coarsest_scale_alone() -> None:
    a, b = 100.0, 200.0
    x, y = np.full((192, 192), a), np.full((192, 192), b)
    c1 = (0.01 * 255) ** 2
    assert ms_ssim(x, y) == pytest.approx(((2 * a * b + c1) / (a * a + b * b + c1)) ** WEIGHTS[-1])


def test_small_images_have_the_scales_that_the_window_fits_into() -> None:
    assert [scales_of(side, 500) for side in (11, 21, 22, 44, 88, 128, 175, 176, 512)] == [1, 1, 2, 3, 4, 4, 4, 5, 5]
    with pytest.raises(TetherError, match="11 pixels"):
        scales_of(10, 500)
    with pytest.raises(TetherError, match="the same"):
        ms_ssim(np.zeros((20, 20)), np.zeros((20, 21)))


@pytest.mark.parametrize("side", [176, 192, 256])
def test_ms_ssim_is_that_of_torchmetrics(side: int) -> None:
    image = pytest.importorskip("torchmetrics.functional.image")
    import torch

    x = picture(side)
    y = noisy(x, 30)
    pair = (torch.from_numpy(one)[None, None] for one in (x, y))
    theirs = image.multiscale_structural_similarity_index_measure(*pair, data_range=255.0)
    assert ms_ssim(x, y) == pytest.approx(float(theirs), abs=2e-3)


def test_gmsd_of_a_step_against_a_plain_image() -> None:
    # After halving, a step of height h between two columns gives both of them the gradient h (Prewitt / 3), all other
    # columns 0. Similarity there is c / (h^2 + c), and 1 elsewhere: a deviation of (1 - s) sqrt(p (1 - p)).
    step, plain = np.full((64, 64), 50.0), np.full((64, 64), 50.0)
    step[:, 32:] = 90.0
    # At the border zeros lie outside, and both images have gradients there, nearly alike: an inner part is enough.
    inner = gmsd(step, plain)
    s, p = 170 / (40.0**2 + 170), 2 / 32
    assert inner == pytest.approx((1 - s) * (p * (1 - p)) ** 0.5, abs=0.02)


def test_gmsd_sees_no_change_of_brightness_and_color_difference_does() -> None:
    rgb = np.stack([picture(64)] * 3, axis=2)
    rgb = (rgb * 0.5 + 60).astype(np.uint8)
    warmer = rgb + np.array([20, 0, 0], np.uint8)
    assert gradient_deviation(warmer, rgb)["value"] < 0.02
    assert color_difference(warmer, rgb)["value"] > 5
    assert color_difference(rgb, rgb)["value"] == 0.0


def test_black_and_white_are_100_apart() -> None:
    white, black = np.full((8, 8, 3), 255, np.uint8), np.zeros((8, 8, 3), np.uint8)
    assert color_difference(white, black)["value"] == pytest.approx(100, abs=0.1)


def test_a_line_map_is_like_itself_and_not_like_an_empty_one() -> None:
    lines = np.zeros((128, 128, 3), np.uint8)
    lines[20:100:16] = 255
    assert map_similarity(lines, lines)["value"] == pytest.approx(1.0)
    assert map_similarity(np.zeros_like(lines), lines)["value"] < 0.5


def test_in_a_hole_only_its_pixels_count() -> None:
    wanted = np.stack([picture(64)] * 3, axis=2).astype(np.uint8)
    hole = np.zeros((64, 64), bool)
    hole[:32, :32] = True
    wrong = np.where(hole[..., None], 255 - wanted, wanted).astype(np.uint8)
    for measure in (color_difference, gradient_deviation):
        assert measure(wrong, wanted, hole)["value"] > 0
        assert measure(wrong, wanted, ~hole)["value"] == pytest.approx(0, abs=0.05)  # gradients at the border
    whole = color_difference(wrong, wanted)["value"]
    assert color_difference(wrong, wanted, hole)["value"] == pytest.approx(4 * whole, rel=1e-5)
