"""The agreement of edges and strokes, and the metrics made of it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tether.errors import TetherError
from tether.kinds import annotate, kind_of
from tether.kinds.canny import fidelity
from tether.kinds.edges import edge_f1, middle_lines


def points(*at: tuple[int, int]) -> np.ndarray:
    edges = np.zeros((20, 20), bool)
    for row, column in at:
        edges[row, column] = True
    return edges


@pytest.mark.parametrize(
    ("found", "distance_matches"),
    [((5, 5), True), ((5, 7), True), ((6, 6), True), ((7, 7), False), ((5, 8), False)],
)
def test_an_edge_pixel_matches_up_to_a_distance_of_two_pixels(found: tuple[int, int], distance_matches: bool) -> None:
    assert edge_f1(points(found), points((5, 5))) == (1.0 if distance_matches else 0.0)


def test_f1_is_the_harmonic_mean_of_precision_and_recall() -> None:
    # Of two found one is right (precision 1/2); of three wanted one is found (recall 1/3).
    assert edge_f1(points((2, 2), (2, 15)), points((2, 2), (10, 2), (17, 2))) == pytest.approx(0.4)


def test_no_edges_where_none_are_wanted_is_right_and_some_are_wrong() -> None:
    assert edge_f1(points(), points()) == 1.0
    assert edge_f1(points((3, 3)), points()) == 0.0
    assert edge_f1(points(), points((3, 3))) == 0.0


def test_f1_is_that_of_a_pixel_by_pixel_computation() -> None:
    rng = np.random.default_rng(0)
    found, wanted = rng.random((2, 24, 31)) < 0.03
    a, b = np.argwhere(found), np.argwhere(wanted)
    close = np.hypot(*(a[:, None] - b[None]).transpose(2, 0, 1)) <= 2
    precision, recall = close.any(1).mean(), close.any(0).mean()
    assert edge_f1(found, wanted) == pytest.approx(2 * precision * recall / (precision + recall))


def test_edge_maps_of_other_sizes_are_refused() -> None:
    with pytest.raises(TetherError, match="the same"):
        edge_f1(np.zeros((4, 4)), np.zeros((4, 5)))


def test_a_map_of_another_size_is_brought_to_the_images_and_keeps_its_lines() -> None:
    image = boxes()[0]
    large = image.resize((4 * image.width, 4 * image.height), Image.Resampling.LANCZOS)
    assert fidelity(image, annotate("canny", large)) > 0.9


def boxes(color: str = "black") -> list[Image.Image]:
    """Two images of one box each, at different places."""
    images = []
    for box in ((10, 10, 40, 40), (70, 70, 110, 90)):
        image = Image.new("RGB", (128, 128), "white")
        ImageDraw.Draw(image).rectangle(box, fill=color)
        images.append(image)
    return images


@pytest.mark.parametrize("kind", ["canny", "scribble"])
def test_an_image_follows_its_own_edges_and_not_those_of_another(kind: str) -> None:
    images = boxes()
    condition = annotate(kind, images[0])
    metric = kind_of(kind).metric
    assert metric is not None
    assert metric(images[0], condition) == 1.0
    assert metric(images[1], condition) == 0.0


@pytest.mark.parametrize("kind", ["canny", "scribble"])
def test_edges_between_colors_of_one_brightness_are_wanted_and_found_alike(kind: str) -> None:
    """White and black differ in gray too; these two do not, and only their colors say where the box is."""
    image = Image.new("RGB", (128, 128), (255, 0, 0))
    ImageDraw.Draw(image).rectangle((30, 40, 80, 90), fill=(0, 130, 0))
    levels = np.asarray(image.convert("L")).astype(int)
    assert np.ptp(levels) <= 1
    condition = annotate(kind, image)
    metric = kind_of(kind).metric
    assert metric is not None
    assert np.asarray(condition).any()
    assert metric(image, condition) == 1.0


@pytest.mark.parametrize("pen", [1, 2, 5, 9])
def test_how_thick_a_scribble_is_drawn_hardly_matters(pen: int) -> None:
    image = boxes()[0]
    metric = kind_of("scribble").metric
    assert metric is not None
    assert metric(image, annotate("scribble", image, thickness=pen)) > 0.9


def test_thick_strokes_do_not_excuse_lines_that_lie_elsewhere() -> None:
    """A pen of 17 px covers 8 to either side; an image whose lines lie 6 px off has other lines all the same."""
    condition = Image.new("RGB", (128, 128))
    ImageDraw.Draw(condition).line((0, 64, 127, 64), fill="white", width=17)
    metric = kind_of("scribble").metric
    assert metric is not None
    found = []
    for row in (64, 70):
        image = Image.new("RGB", (128, 128), "white")
        ImageDraw.Draw(image).line((0, row, 127, row), fill="black", width=1)
        found.append(metric(image, condition))
    assert found[0] > 0.9
    assert found[1] < 0.1


def test_the_middle_of_a_bar_is_one_line_and_what_is_thin_stays_as_it_is() -> None:
    bar = np.zeros((21, 40), bool)
    bar[8:13] = True  # cut off by the frame on both sides
    assert np.array_equal(np.flatnonzero(middle_lines(bar).any(axis=1)), [10])
    assert middle_lines(bar)[10].all()
    thin = points((2, 2), (3, 3), (10, 4), (10, 5), (10, 6))
    assert np.array_equal(middle_lines(thin), thin)
    for whole in (np.zeros((5, 7)), np.ones((5, 7))):
        assert np.array_equal(middle_lines(whole), whole != 0)
