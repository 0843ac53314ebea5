"""Annotators without weights: what they find in images whose content is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from tether.kinds import annotate
from tether.kinds.ade20k import COLORS
from tether.kinds.blur import blurred
from tether.kinds.edges import edge_f1
from tether.kinds.lineart import line_art
from tether.kinds.mlsd import line_segments
from tether.kinds.normal import normals_of
from tether.kinds.seg import regions
from tether.kinds.shuffle import shuffled
from tether.kinds.softedge import soft_edges


@pytest.fixture
def disc() -> np.ndarray:
    """A red disc on blue, as bright in gray, softened as by a lens."""
    image = np.full((256, 256, 3), (40, 60, 200), np.uint8)
    cv2.circle(image, (128, 128), 80, (160, 50, 30), -1, cv2.LINE_AA)
    return cv2.GaussianBlur(image, (0, 0), 0.7)


def rim(width: float) -> np.ndarray:
    y, x = np.mgrid[:256, :256]
    return abs(np.hypot(x - 128, y - 128) - 80) <= width


def test_soft_edges_are_brightest_on_the_edge_and_fade_beside_it(disc: np.ndarray) -> None:
    edges = soft_edges(disc)
    assert edges.min() >= 0
    assert edges.max() <= 1
    assert edges[rim(1)].min() > 0.9
    assert edges[~rim(24)].max() == 0
    rings = [edges[rim(k + 1) & ~rim(k)].mean() for k in range(1, 7)]
    assert rings == sorted(rings, reverse=True)
    assert rings[0] > 0.9 > 0.1 > rings[-1]


def test_soft_edges_of_texture_are_darker_than_those_of_objects(disc: np.ndarray) -> None:
    noise = np.random.default_rng(0).integers(-60, 61, disc.shape)
    edges = soft_edges((disc + noise).clip(0, 255).astype(np.uint8))
    assert edges[~rim(24)].mean() < 0.5 * edges[rim(1)].mean()


def test_soft_edges_of_a_large_image_are_those_of_the_small_one_enlarged(disc: np.ndarray) -> None:
    small = cv2.resize(disc, (512, 512), interpolation=cv2.INTER_CUBIC)
    large = cv2.resize(disc, (2048, 2048), interpolation=cv2.INTER_CUBIC)
    reduced = cv2.resize(soft_edges(large), (512, 512), interpolation=cv2.INTER_AREA)
    assert abs(reduced - soft_edges(small)).mean() < 0.03


def test_line_art_keeps_dark_lines_and_finds_the_contour_of_colors(disc: np.ndarray) -> None:
    paper = np.full((256, 256, 3), 240, np.uint8)
    cv2.line(paper, (40, 60), (200, 180), (30, 30, 30), 2, cv2.LINE_AA)
    lines = line_art(paper) > 0.5
    truth = cv2.line(np.zeros((256, 256), np.uint8), (40, 60), (200, 180), 255, 2) > 0
    assert edge_f1(lines, truth) > 0.95
    for drawing in (paper, 255 - paper):  # and chalk on a blackboard
        found = np.asarray(annotate("lineart", Image.fromarray(drawing)))[..., 0] > 127
        assert edge_f1(found, truth) > 0.95
    contour = line_art(disc)
    assert (contour > 0.4)[rim(4)].sum() > 2 * np.pi * 80 * 0.9
    assert contour[~rim(12)].max() < 0.1


def test_lines_are_where_they_were_drawn_and_short_ones_are_left_out() -> None:
    image = np.full((256, 256, 3), 200, np.uint8)
    cv2.rectangle(image, (50, 60), (200, 180), (40, 40, 40), -1)
    cv2.rectangle(image, (20, 220), (26, 226), (40, 40, 40), -1)
    segments = line_segments(image)
    assert len(segments) == 4
    for x0, y0, x1, y1 in segments:
        sides = [abs(np.array([x0, x1]) - at).max() for at in (50, 200)]
        sides += [abs(np.array([y0, y1]) - at).max() for at in (60, 180)]
        assert min(sides) < 2
    assert len(line_segments(image, 0.5)) > 4
    map_ = np.asarray(annotate("lines", Image.fromarray(image)))
    assert set(np.unique(map_)) == {0, 255}
    truth = cv2.rectangle(np.zeros((256, 256), np.uint8), (50, 60), (200, 180), 255)
    assert edge_f1(map_[..., 0], truth) > 0.98


def test_regions_are_the_areas_of_color_without_specks() -> None:
    truth = np.zeros((240, 320), np.uint8)
    truth[:, 160:] = 1
    cv2.circle(truth, (80, 120), 50, 2, -1)
    colors = np.array([(200, 40, 40), (40, 160, 60), (240, 220, 60)])
    noise = np.random.default_rng(0).normal(0, 8, (240, 320, 3))
    image = (colors[truth] + noise).clip(0, 255).astype(np.uint8)
    image[20:24, 20:24] = (40, 160, 60)  # a speck
    labels = regions(image)
    assert len(np.unique(labels)) == 3
    matched = [(labels == np.bincount(labels[truth == k]).argmax()) & (truth == k) for k in range(3)]
    assert np.any(matched, axis=0).mean() > 0.99
    map_ = np.asarray(annotate("segmentation", Image.fromarray(image)))
    assert abs(map_[120, 300].astype(int) - colors[1]).max() <= 2
    assert len(np.unique(map_.reshape(-1, 3), axis=0)) == 3
    assert np.array_equal(map_, np.asarray(annotate("seg", Image.fromarray(image))))


def test_an_image_of_one_color_is_one_region() -> None:
    map_ = np.asarray(annotate("seg", Image.new("RGB", (64, 48), (10, 200, 30))))
    assert (map_ == (10, 200, 30)).all()


def test_shuffling_moves_content_and_makes_no_new_levels(disc: np.ndarray) -> None:
    moved = shuffled(disc, np.random.default_rng(0))
    assert moved.shape == disc.shape
    assert (abs(moved.astype(int) - disc).max(axis=2) > 30).mean() > 0.2
    low, high = disc.min(axis=(0, 1)), disc.max(axis=(0, 1))
    assert (moved >= low).all()
    assert (moved <= high).all()
    assert np.array_equal(moved, shuffled(disc, np.random.default_rng(0)))
    maps = [annotate("shuffle", Image.fromarray(disc), seed=seed).tobytes() for seed in (0, 0, 1)]
    assert maps[0] == maps[1] != maps[2]


def test_tile_and_blur_lose_detail_and_keep_the_mean(disc: np.ndarray) -> None:
    image = Image.fromarray(disc)
    for map_ in (annotate("tile", image, factor=8), annotate("blur", image, sigma=4)):
        pixels = np.asarray(map_).astype(float)
        assert abs(pixels.mean() - disc.mean()) < 2
        assert abs(cv2.Laplacian(pixels, cv2.CV_64F)).mean() < 0.5 * abs(cv2.Laplacian(disc, cv2.CV_64F)).mean()
    assert annotate("tile", image).tobytes() == image.tobytes()


def test_recolor_is_the_luminance_of_rec_601(disc: np.ndarray) -> None:
    map_ = np.asarray(annotate("recolor", Image.fromarray(disc)))
    assert abs(map_[..., 0] - disc @ np.array([0.299, 0.587, 0.114])).max() <= 1
    assert (map_ == map_[..., :1]).all()
    assert (np.asarray(annotate("recolor", Image.fromarray(disc), gamma=2)) <= map_).all()


@pytest.mark.parametrize("dark", [False, True])
def test_inverted_drawings_are_white_on_black(dark: bool) -> None:
    image = np.full((64, 64), 215, np.uint8)
    image[30:32, 5:60] = 20
    image[40:42, 5:60] = 120
    map_ = np.asarray(annotate("invert", Image.fromarray(255 - image if dark else image)))[..., 0]
    assert (map_[image == 215] == 0).all()
    assert (map_[image == 20] == 255).all()
    assert abs(map_[40, 20] - 255 * (215 - 120) / (215 - 20)) < 2


def test_normals_point_x_right_y_up_and_z_to_the_viewer() -> None:
    """Of a sphere before a wall: its right side looks right, its top looks up, its middle at the viewer."""
    y, x = np.mgrid[-1:1:201j, -1:1:201j]
    inside = x**2 + y**2 < 0.64
    near = np.sqrt(np.where(inside, 0.64 - x**2 - y**2, 0)) / 0.8
    # The sphere is 0.8 half sides deep: 0.4 shorter sides.
    map_ = normals_of(near, 0.4).astype(float) / 127.5 - 1
    map_ /= np.linalg.norm(map_, axis=2, keepdims=True)
    truth = np.stack([x, -y, np.sqrt(np.where(inside, 0.64 - x**2 - y**2, 0))], axis=2) / 0.8
    core = x**2 + y**2 < 0.4
    angles = np.degrees(np.arccos(np.clip((map_ * truth).sum(axis=2), -1, 1)))
    assert angles[core].max() < 3
    assert np.array_equal(normals_of(np.full((5, 7), 0.3)), np.broadcast_to(np.uint8([128, 128, 255]), (5, 7, 3)))


def test_the_colors_of_ade20k_are_150_and_those_of_its_first_classes() -> None:
    assert COLORS.shape == (150, 3)
    assert [tuple(int(level) for level in COLORS[k]) for k in (0, 1, 2, 12)] == [
        (120, 120, 120),
        (180, 120, 120),
        (6, 230, 230),
        (150, 5, 61),
    ]


def test_a_drawing_of_few_lines_is_inverted_and_noise_is_not() -> None:
    image = np.full((1024, 1024, 3), 255, np.uint8)
    cv2.circle(image, (512, 512), 60, (0, 0, 0), 2)  # 0.07% of the pixels
    found = np.asarray(annotate("invert", Image.fromarray(image)))
    assert found.max() == 255
    assert not found[image == 255].any()
    noise = np.random.default_rng(0).normal(240, 3, image.shape).clip(0, 255).astype(np.uint8)
    assert not np.asarray(annotate("invert", Image.fromarray(noise))).any()


@pytest.mark.parametrize("side", [8, 12, 16, 24])
def test_a_small_image_has_soft_edges(side: int) -> None:
    image = np.zeros((side, side, 3), np.uint8)
    image[:, side // 2 :] = 255
    assert soft_edges(image).max() > 0.9


def test_a_wide_blur_is_that_of_the_whole_image_and_leaves_no_stripes() -> None:
    image = np.zeros((900, 1200, 3), np.uint8)
    cv2.circle(image, (600, 450), 300, (200, 90, 40), -1)
    whole = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 45)
    assert abs(blurred(image, 5) - whole).max() < 4
    stripes = np.zeros((900, 1200, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(blurred(stripes, 2)[100:-100, 100:-100]) <= 2
