"""Maps are resized by what their colors show: lines, classes, or anything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tether.images import FitRule, fit, fit_condition, open_image, open_map, to_rgb
from tether.images.maps import is_flat

CLASSES = [(120, 120, 120), (180, 120, 120), (6, 230, 230), (80, 50, 50), (4, 200, 3)]


def test_a_map_of_pure_colors_keeps_them() -> None:
    map_ = Image.new("RGB", (64, 64), (0, 0, 255))
    map_.paste((255, 0, 0), (0, 0, 32, 64))
    for side in (32, 128):
        fitted = fit_condition(map_, side, side)
        assert fitted.getpixel((side // 4, side // 2)) == (255, 0, 0)
        assert fitted.getpixel((3 * side // 4, side // 2)) == (0, 0, 255)


@pytest.mark.parametrize("factor", [2, 3, 5, 8])
def test_lines_of_a_map_survive_when_it_is_reduced(factor: int) -> None:
    side = 64 * factor
    map_ = np.zeros((side, side, 3), np.uint8)
    map_[side // 3] = 255
    map_[:, side // 4] = 255
    reduced = np.asarray(fit_condition(Image.fromarray(map_), 64, 64))[..., 0]
    assert set(np.unique(reduced)) == {0, 255}
    assert (reduced[64 // 3] == 255).all()
    assert (reduced[:, 64 // 4] == 255).all()
    assert (reduced == 255).sum() == 64 + 63


def colors(image: Image.Image) -> set[tuple[int, ...]]:
    return {color for _, color in image.getcolors(image.width * image.height)}


def classes() -> Image.Image:
    map_ = Image.new("RGB", (512, 512), CLASSES[2])
    draw = ImageDraw.Draw(map_)
    draw.rectangle((0, 300, 511, 511), fill=CLASSES[3])
    draw.rectangle((100, 120, 300, 400), fill=CLASSES[1])
    draw.ellipse((320, 150, 470, 330), fill=CLASSES[4])
    draw.rectangle((0, 0, 90, 90), fill=CLASSES[0])
    return map_


@pytest.mark.parametrize("rule", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(768, 768), (400, 400), (128, 128), (700, 300)])
def test_classes_get_no_new_colors(size: tuple[int, int], rule: FitRule) -> None:
    for map_ in (classes(), classes().quantize(8), classes().convert("L")):
        allowed = colors(to_rgb(map_)) | ({(0, 0, 0)} if rule == "pad" else set())
        assert colors(fit_condition(map_, *size, rule)) <= allowed
    if rule == "stretch":
        assert colors(fit_condition(classes(), *size, rule)) == set(CLASSES)


def test_areas_keep_their_share() -> None:
    half = Image.new("RGB", (96, 96), CLASSES[0])
    half.paste(CLASSES[1], (0, 0, 48, 96))
    for side in (64, 160, 31):
        share = (np.asarray(fit_condition(half, side, side)) == CLASSES[1]).all(axis=2).mean()
        assert share == pytest.approx(0.5, abs=1 / side)


def smooth_maps() -> dict[str, Image.Image]:
    ramp = np.linspace(0, 255, 300).astype(np.uint8)[None].repeat(300, axis=0)
    lines = Image.new("L", (1200, 1200))
    ImageDraw.Draw(lines).line((100, 90, 900, 1100), fill=255, width=6)
    rng = np.random.default_rng(0)
    return {
        "depth": Image.fromarray(ramp),
        "smooth lines": lines.resize((300, 300), Image.Resampling.BOX),
        "photo": Image.fromarray(rng.integers(0, 256, (300, 300, 3), np.uint8)),
    }


@pytest.mark.parametrize("name", smooth_maps())
def test_what_has_many_levels_or_smooth_edges_is_resized_smoothly(name: str) -> None:
    map_ = smooth_maps()[name]
    assert not is_flat(to_rgb(map_))
    assert fit_condition(map_, 200, 200).tobytes() == to_rgb(fit(map_, 200, 200)).tobytes()


def widths(row: np.ndarray) -> list[int]:
    """The lengths of the white runs of `(W,)`."""
    changes = np.flatnonzero(np.diff(np.r_[0, (row > 127).astype(int), 0]))
    return np.diff(changes.reshape(-1, 2), axis=1).ravel().tolist()


@pytest.mark.parametrize("side", [600, 768, 1024, 2048])
def test_lines_of_one_pixel_stay_one_pixel_wide_and_whole(side: int) -> None:
    map_ = np.zeros((512, 512), np.uint8)
    map_[:, 20:500:40] = 255
    upright = np.asarray(fit_condition(Image.fromarray(map_), side, side))[..., 0]
    across = np.asarray(fit_condition(Image.fromarray(map_.T.copy()), side, side))[..., 0]
    assert all(widths(row) == [1] * 12 for row in upright)  # in every row: to the border, without a gap
    assert np.array_equal(across, upright.T)
    middles = (np.arange(20, 500, 40) + 0.5) * side / 512 - 0.5
    assert np.abs(np.flatnonzero(upright[side // 2]) - middles).max() <= 0.5


def test_bent_lines_stay_connected_and_thin() -> None:
    import cv2

    map_ = Image.new("L", (128, 128))
    ImageDraw.Draw(map_).ellipse((20, 30, 100, 110), outline=255)
    ring = np.asarray(fit_condition(map_, 512, 512))[..., 0]
    parts, _ = cv2.connectedComponents(ring)
    assert parts - 1 == 1
    assert cv2.connectedComponents(255 - ring, connectivity=4)[0] - 1 == 2  # closed: an inside and an outside
    assert 0.7 * np.pi * 320 < (ring > 0).sum() < 1.3 * np.pi * 320


def test_areas_grow_with_the_map_and_single_pixels_stay() -> None:
    map_ = Image.new("L", (64, 64))
    map_.paste(255, (10, 10, 20, 26))
    map_.putpixel((50, 50), 255)
    white = np.asarray(fit_condition(map_, 256, 256))[..., 0] > 0
    assert white[42:102, 42:78].all()  # all but the corners, which are round
    assert white[200:204, 200:204].sum() == 1
    assert white.sum() == pytest.approx(64 * 40, abs=64)


@pytest.mark.parametrize("rule", ["stretch", "crop", "pad"])
def test_enlarged_lines_lie_where_fit_puts_the_image(rule: FitRule) -> None:
    map_ = Image.new("L", (60, 40))
    ImageDraw.Draw(map_).line((30, 4, 30, 35), fill=255)
    ours = np.argwhere(np.asarray(fit_condition(map_, 200, 100, rule))[..., 0])
    smooth = np.argwhere(np.asarray(fit(map_, 200, 100, rule, pad_color=(0, 0, 0))) > 127)
    assert np.abs(ours.mean(axis=0) - smooth.mean(axis=0)).max() <= 1


@pytest.mark.parametrize("factor", [2, 3, 5, 8])
def test_strokes_in_color_survive_when_they_are_reduced(factor: int) -> None:
    side = 64 * factor
    pose = Image.new("RGB", (side, side))
    ImageDraw.Draw(pose).line((0, side // 3, side, side // 3), fill=(255, 0, 85))
    ImageDraw.Draw(pose).line((side // 4, 0, side // 4, side // 3 - 1), fill=(0, 255, 170))
    reduced = fit_condition(pose, 64, 64)
    assert colors(reduced) == {(0, 0, 0), (255, 0, 85), (0, 255, 170)}
    assert (np.asarray(reduced)[64 // 3] == (255, 0, 85)).all()
    assert (np.asarray(reduced)[: 64 // 3, 64 // 4] == (0, 255, 170)).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparency_of_a_map_is_black(mode: str) -> None:
    strokes = Image.new("RGBA", (128, 128), (0, 0, 0, 0))
    ImageDraw.Draw(strokes).ellipse((32, 32, 96, 96), outline=(255, 255, 255, 255), width=2)
    opaque = Image.new("RGBA", (128, 128), (0, 0, 0, 255))
    opaque.alpha_composite(strokes)
    for size in (128, 64, 200):
        expected = fit_condition(opaque, size, size)
        assert fit_condition(strokes.convert(mode), size, size).tobytes() == expected.tobytes()


LARGE = 8192 + 1024
"""A side of more pixels than images are worked with."""


def test_a_large_map_of_classes_gets_no_new_colors_when_it_is_read(tmp_path: Path) -> None:
    map_ = Image.new("RGB", (LARGE, 64), CLASSES[0])
    for k in range(0, LARGE, 7):
        map_.paste(CLASSES[1 + k % 4], (k, 0, k + 3, 64))
    for name, written in (("rgb", map_), ("palette", map_.quantize(8))):
        written.save(tmp_path / f"{name}.png")
        read = open_map(tmp_path / f"{name}.png")
        assert read.width == 8192
        assert colors(read) == set(CLASSES)
        assert len(colors(to_rgb(open_image(tmp_path / f"{name}.png")))) > len(CLASSES)  # as photographs are


def test_a_large_map_of_lines_keeps_all_lines_when_it_is_read(tmp_path: Path) -> None:
    lines = np.zeros((32, LARGE), np.uint8)
    lines[:, 40::50] = 255
    Image.fromarray(lines).save(tmp_path / "lines.png")
    read = np.asarray(open_map(tmp_path / "lines.png").convert("L"))
    assert set(np.unique(read)) == {0, 255}
    starts = np.flatnonzero(np.diff(read[16].astype(int)) > 0)
    assert len(starts) == len(range(40, LARGE, 50))
    transparent = Image.merge("LA", [Image.new("L", (LARGE, 32), 255), Image.fromarray(lines)])
    transparent.save(tmp_path / "transparent.png")
    assert open_map(tmp_path / "transparent.png").mode == "RGBA"


def test_large_photographs_and_maps_of_many_colors_are_read_alike(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, LARGE).astype(np.uint16)[None].repeat(8, axis=0)
    Image.fromarray(ramp).save(tmp_path / "depth.png")
    assert to_rgb(open_map(tmp_path / "depth.png")).tobytes() == open_image(tmp_path / "depth.png").tobytes()
    small = Image.new("RGB", (8, 8), "red")
    small.save(tmp_path / "small.png")
    assert open_map(tmp_path / "small.png").tobytes() == small.tobytes()
