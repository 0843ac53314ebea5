"""Dark lines on a light ground are told from light lines on a dark one."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from tether.kinds.polarity import from_paper, inverted, is_dark_on_light

LINES = Image.new("RGB", (64, 64))
ImageDraw.Draw(LINES).ellipse((10, 10, 50, 50), outline="white")
PAPER = ImageOps.invert(LINES)


def on_nothing(color: str) -> Image.Image:
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((10, 10, 50, 50), outline=color)
    return image


@pytest.mark.parametrize("kind", ["canny", "scribble", "lineart", "mlsd", "softedge"])
def test_dark_lines_on_light_are_found(kind: str) -> None:
    for image in (PAPER, PAPER.convert("L"), PAPER.convert("1"), on_nothing("black")):
        assert is_dark_on_light(image, kind)
        assert np.array_equal(np.asarray(inverted(image).convert("L")), np.asarray(LINES.convert("L")))


@pytest.mark.parametrize("ink", [0, 60, 100, 130, 165])
@pytest.mark.parametrize("paper", [255, 235])
def test_a_pencil_may_be_light_and_paper_a_little_gray(ink: int, paper: int) -> None:
    image = Image.new("L", (64, 64), paper)
    ImageDraw.Draw(image).ellipse((10, 10, 50, 50), outline=ink, width=2)
    assert is_dark_on_light(image, "canny")
    found, drawn = np.asarray(from_paper(image).convert("L")), np.asarray(image) == ink
    if ink <= 100:
        assert np.array_equal(found, np.asarray(inverted(image).convert("L")))
    else:
        assert (found[drawn] == 255).all()
        assert (found[~drawn] == 0).all()


@pytest.mark.parametrize(
    "image",
    [LINES, on_nothing("white"), Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64), "white")],
    ids=["lines", "lines on nothing", "black", "white"],
)
def test_maps_that_are_right_or_empty_stay(image: Image.Image) -> None:
    assert not is_dark_on_light(image, "canny")


@pytest.mark.parametrize("kind", ["openpose", "keypoints", "seg", "depth", "tile", "mine", None])
def test_kinds_that_are_not_white_lines_stay(kind: str | None) -> None:
    assert not is_dark_on_light(PAPER, kind)


def test_colors_are_not_lines() -> None:
    photo = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    assert not is_dark_on_light(Image.fromarray(photo // 8 + 220), "canny")
    assert not is_dark_on_light(Image.fromarray(photo), "canny")
