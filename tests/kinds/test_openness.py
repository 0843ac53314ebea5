"""Whether maps of lines leave the picture open, told from the map alone."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import tether
from tether.datasets.synthetic.builtin import builtin_source
from tether.images import open_image
from tether.kinds import make_map
from tether.kinds.openness import LIMITS, is_open, nothing_in, structure
from tether.studies.ambiguous import LEVELS, made_ambiguous

EXAMPLES = Path(tether.__file__).parent / "examples"


def ring(side: int = 128, thickness: int = 1) -> np.ndarray:
    """A circle of half the side's diameter, white on black."""
    pixels = np.zeros((side, side, 3), np.uint8)
    cv2.circle(pixels, (side // 2, side // 2), side // 4, (255, 255, 255), thickness)
    return pixels


def test_structure_is_the_share_of_cells_that_a_long_line_crosses() -> None:
    pixels = np.zeros((128, 128, 3), np.uint8)
    pixels[60, 8:48] = 255  # five cells of 16 x 16
    assert structure(pixels) == 5 / 256
    pixels[60, 8:48:4] = 0  # broken into dashes
    assert structure(pixels) == 0


@pytest.mark.parametrize("side", [256, 512])
def test_a_larger_drawing_of_the_same_has_the_same_structure(side: int) -> None:
    assert structure(ring(side)) == pytest.approx(structure(ring()), abs=0.02)


def test_a_wider_picture_is_judged_by_its_shorter_side() -> None:
    wide = np.zeros((128, 256, 3), np.uint8)
    wide[:, :128] = ring()
    assert structure(wide) == pytest.approx(structure(ring()) / 2)


@pytest.mark.parametrize("level", ["specks", "noise", "blank"])
def test_what_has_no_lines_has_little_structure(level: str) -> None:
    assert structure(made_ambiguous(ring(), level, "ring")) < 0.04


@pytest.mark.parametrize("name", ["house.webp", "lock.webp", "mouse.webp", "doodle.png"])
@pytest.mark.parametrize("kind", list(LIMITS))
@pytest.mark.parametrize("prompted", [True, False])
def test_ordinary_maps_are_not_open(name: str, kind: str, prompted: bool) -> None:
    image = open_image(EXAMPLES / name)
    drawn = image if name == "doodle.png" else make_map(kind, image, None, {})
    assert is_open(kind, np.asarray(drawn.convert("RGB")), prompted=prompted) is False


def test_no_whole_map_of_a_held_out_name_is_open() -> None:
    held_out = builtin_source("emoji3d", 128, 50, held_out=True)
    for sample in held_out:
        assert isinstance(sample.image, Image.Image)
        edges = make_map("canny", sample.image, None, {})
        assert is_open("canny", np.asarray(edges), prompted=False) is False


@pytest.mark.parametrize("kind", list(LIMITS))
def test_a_few_short_strokes_leave_the_picture_open(kind: str) -> None:
    pixels = np.zeros((128, 128, 3), np.uint8)
    pixels[40, 30:60] = pixels[80, 70:90] = 255
    assert is_open(kind, pixels, prompted=False)


def test_kinds_without_a_limit_are_not_judged() -> None:
    assert is_open("depth", ring(), prompted=False) is None


@pytest.mark.parametrize(
    ("kind", "value", "found"),
    [("canny", 0, "black"), ("canny", 255, "of one color"), ("tile", 90, ""), ("seg", 90, ""), ("mine", 90, "")],
)
def test_maps_of_one_color_say_nothing_where_the_color_does_not(kind: str, value: int, found: str) -> None:
    assert nothing_in(kind, np.full((8, 8, 3), value, np.uint8)) == found


def test_stronger_levels_erase_more_of_the_same() -> None:
    pixels = ring(thickness=2)
    for way in ("swept", "dashed"):
        left = [made_ambiguous(pixels, level, "ring") for level in LEVELS if level.startswith(way)]
        for before, after in zip([pixels, *left], left, strict=False):
            assert 0 < (after > 0).sum() < (before > 0).sum()
            assert (after <= before).all()
