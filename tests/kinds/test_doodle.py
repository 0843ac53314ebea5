"""A person's doodle, in any ink on any paper, becomes white strokes on black."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tether.kinds import kind_of
from tether.kinds.doodle import doodle_map, has_light_ink, looks_drawn

HOUSE = [((60, 130), (128, 50)), ((128, 50), (200, 130)), ((60, 130), (200, 130)), ((75, 130), (75, 220))]
HOUSE += [((190, 130), (190, 220)), ((75, 220), (190, 220))]


def drawn(paper: tuple[int, ...], ink: tuple[int, ...], width: int) -> np.ndarray:
    image = np.full((256, 256, 3), paper, np.uint8)
    for start, end in HOUSE:
        cv2.line(image, start, end, ink, width, cv2.LINE_AA)
    return image


def near(mask: np.ndarray, radius: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * radius + 1,) * 2, np.uint8)) > 0


@pytest.mark.parametrize(
    ("paper", "ink", "width"),
    [
        ((255, 255, 255), (0, 0, 0), 3),
        ((20, 30, 25), (230, 230, 220), 5),
        ((250, 245, 220), (200, 60, 60), 1),
        ((60, 60, 200), (250, 240, 0), 9),
        ((240, 240, 240), (200, 190, 120), 4),
    ],
)
def test_strokes_are_where_they_were_drawn(paper: tuple[int, ...], ink: tuple[int, ...], width: int) -> None:
    image = drawn(paper, ink, width)
    truth = drawn((0, 0, 0), (255, 255, 255), width)[..., 0] > 127
    strokes = doodle_map(image) > 0
    assert (near(strokes, 1) | ~truth).all()
    assert (~strokes | near(truth, 3)).all()
    assert looks_drawn(image)
    annotator = kind_of("scribble").annotator()
    by_default = annotator.detect(image, **annotator.settings("scribble", {}))[..., 0] > 0
    assert (near(by_default, width) | ~truth).all()
    assert (~by_default | near(truth, 6)).all()


def test_shading_and_noise_of_a_photographed_sheet_are_no_strokes() -> None:
    shade = np.linspace(120, 235, 256)[None, :, None] + np.zeros((256, 256, 3))
    noise = np.random.default_rng(0).normal(0, 4, shade.shape)
    image = np.where(drawn((0, 0, 0), (1, 1, 1), 3) > 0, 40, shade) + noise
    truth = drawn((0, 0, 0), (255, 255, 255), 3)[..., 0] > 127
    strokes = doodle_map(image.clip(0, 255).astype(np.uint8)) > 0
    assert (near(strokes, 1) | ~truth).all()
    assert (~strokes | near(truth, 4)).all()


def test_of_what_is_filled_the_outline_is_drawn() -> None:
    image = np.full((256, 256, 3), 255, np.uint8)
    cv2.circle(image, (128, 128), 70, (220, 30, 30), -1)
    strokes = doodle_map(image) > 0
    y, x = np.mgrid[:256, :256]
    radius = np.hypot(x - 128, y - 128)
    assert strokes[abs(radius - 70) < 0.5].all()
    assert not strokes[radius < 66].any()
    assert not strokes[radius > 73].any()


@pytest.mark.parametrize("level", [0, 128, 255])
def test_blank_paper_has_no_strokes_and_is_no_drawing(level: int) -> None:
    noise = np.random.default_rng(0).normal(level, 3, (256, 256, 3)).clip(0, 255).astype(np.uint8)
    for image in (np.full((64, 64, 3), level, np.uint8), noise):
        assert not doodle_map(image).any()
        assert not looks_drawn(image)


def test_what_fills_the_image_with_shades_is_no_drawing() -> None:
    rng = np.random.default_rng(0)
    clouds = cv2.resize(rng.integers(0, 256, (9, 9, 3), np.uint8), (256, 256), interpolation=cv2.INTER_CUBIC)
    assert not looks_drawn(clouds)
    assert not looks_drawn(rng.integers(0, 256, (256, 256, 3), np.uint8))


def test_a_thing_photographed_on_black_is_no_drawing_and_a_filled_one_in_chalk_is() -> None:
    image = np.full((256, 256, 3), 8, np.uint8)
    cv2.ellipse(image, (128, 128), (70, 50), 0, 0, 360, (232, 228, 224), -1)
    assert looks_drawn(image)
    for x in range(80, 180, 16):
        cv2.line(image, (x, 100), (x, 156), (40, 40, 160), 3)
    assert has_light_ink(image)
    assert not looks_drawn(image)


def test_areas_of_a_large_doodle_are_those_of_the_small_one() -> None:
    small = np.full((256, 256, 3), 255, np.uint8)
    cv2.circle(small, (128, 128), 70, (220, 30, 30), -1)
    large = cv2.resize(small, (2560, 2560), interpolation=cv2.INTER_NEAREST)
    strokes = doodle_map(large) > 0
    y, x = np.mgrid[:2560, :2560]
    radius = np.hypot(x - 1280, y - 1280)
    assert not strokes[radius < 650].any()
    assert strokes[abs(radius - 705) < 30].any()


def test_areas_of_several_colors_in_chalk_are_a_drawing() -> None:
    image = np.full((256, 256, 3), 8, np.uint8)
    cv2.rectangle(image, (70, 110), (186, 210), (230, 230, 230), -1)
    cv2.fillPoly(image, [np.array([[60, 110], [196, 110], [128, 50]])], (220, 40, 40))
    noise = np.random.default_rng(0).normal(0, 3, image.shape)
    assert looks_drawn(image)
    assert looks_drawn((image + noise).clip(0, 255).astype(np.uint8))
