"""Conditions for inpainting have holes, which training sees as sampling shows them: -1."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from tether.base import Base
from tether.datasets.build import build_dataset
from tether.datasets.holes import fit_holes, given_holes, random_holes, with_holes
from tether.datasets.latents.cache import build_cache, plan_cache
from tether.datasets.latents.samples import CachedSamples
from tether.datasets.prepare import Preparation, prepare
from tether.datasets.source import Rejected, Sample
from tether.kinds.inpaint import KIND

from .conftest import picture

IMAGE = picture(1, 96, 64)
HOLE = np.zeros((64, 96), bool)
HOLE[16:40, 24:64] = True


def forms() -> dict[str, Image.Image]:
    """The same hole as people store it."""
    black = np.asarray(IMAGE).copy()
    black[HOLE] = 0
    return {
        "transparent": with_holes(IMAGE, HOLE),
        "black": Image.fromarray(black),
        "mask": Image.fromarray(np.where(HOLE, 255, 0).astype(np.uint8)),
    }


@pytest.mark.parametrize("form", ["transparent", "black", "mask"])
def test_a_given_hole_is_found_however_it_is_stored(form: str) -> None:
    given = forms()[form]
    file = io.BytesIO()
    given.save(file, "PNG")
    found = prepare(Sample("a", IMAGE, "a cat", file.getvalue()), Preparation("inpaint"))
    condition = Image.open(io.BytesIO(found.condition))
    assert condition.mode == "RGBA"
    assert np.array_equal(np.asarray(condition.getchannel("A")) == 0, HOLE)
    assert np.array_equal(np.asarray(condition)[~HOLE][:, :3], np.asarray(IMAGE)[~HOLE])


def test_black_parts_of_the_image_are_no_holes() -> None:
    pixels = np.asarray(IMAGE).copy()
    pixels[:8, :8] = 0
    image, cut = Image.fromarray(pixels), pixels.copy()
    cut[HOLE] = 0
    assert np.array_equal(given_holes(Image.fromarray(cut), Image.fromarray(cut), image), HOLE)


def masks() -> dict[str, Image.Image]:
    """The same hole in masks that are not quite black and white."""
    plain = Image.fromarray(np.where(HOLE, 255, 0).astype(np.uint8))
    found = {"254": plain.point(lambda level: level * 254 // 255), "soft": plain.filter(ImageFilter.GaussianBlur(2))}
    for name in ("JPEG", "WEBP"):
        plain.save(file := io.BytesIO(), name, quality=60)
        found[name] = Image.open(file)
    return found


@pytest.mark.parametrize("ground", ["picture", "white", "black"])
@pytest.mark.parametrize("form", sorted(masks()))
def test_a_mask_need_not_be_exactly_black_and_white(form: str, ground: str) -> None:
    mask = masks()[form].convert("RGB")
    image = IMAGE if ground == "picture" else Image.new("RGB", IMAGE.size, ground)
    found = given_holes(mask, mask, image)
    assert (found & HOLE).sum() > 0.95 * (found | HOLE).sum()


def test_holes_in_a_dark_gray_photo_are_not_its_light_parts() -> None:
    image = IMAGE.convert("L").point(lambda level: 8 + level // 32)
    cut = Image.fromarray(np.where(HOLE, 0, np.asarray(image)).astype(np.uint8)).convert("RGB")
    assert not given_holes(cut, cut, image.convert("RGB")).any()
    light = image.point(lambda level: level * 8).convert("RGB")
    cut = Image.fromarray(np.where(HOLE[..., None], 0, np.asarray(light)).astype(np.uint8))
    assert np.array_equal(given_holes(cut, cut, light), HOLE)


EMPTY = {"0": Image.new("L", IMAGE.size, 0), "1": Image.fromarray(HOLE.astype(np.uint8))}


@pytest.mark.parametrize("given", [IMAGE, Image.new("RGB", IMAGE.size, "red"), *EMPTY.values(), picture(2, 96, 64)])
def test_a_condition_without_holes_is_rejected(given: Image.Image) -> None:
    with pytest.raises(Rejected, match="nothing in it is transparent"):
        prepare(Sample("a", IMAGE, "a cat", given), Preparation("inpaint"))


def test_random_holes_cover_a_part_of_the_image() -> None:
    shares = [random_holes(96, 64, np.random.default_rng(seed)).mean() for seed in range(50)]
    assert min(shares) >= 0.05
    assert max(shares) <= 0.6
    assert np.std(shares) > 0.05


def test_the_black_of_a_hole_does_not_bleed() -> None:
    gray = Image.new("RGB", (96, 64), (200, 200, 200))
    fitted = np.asarray(fit_holes(with_holes(gray, HOLE), (37, 29)))
    kept = fitted[fitted[..., 3] == 255][:, 0]
    assert 198 <= kept.min() <= kept.max() <= 202
    assert 0.1 < (fitted[..., 3] == 0).mean() < 0.2


def test_training_sees_the_lowest_value_in_the_holes_of_photos(photos: Path, tiny_base: Base, tmp_path: Path) -> None:
    build_dataset(photos, tmp_path / "data", "inpaint", workers=0)
    cache = build_cache(
        plan_cache(tmp_path / "data", tiny_base, tmp_path / "cache", resolution=64, crops=2, flips=True)
    )
    samples = CachedSamples(cache)
    for index in range(len(samples)):
        for epoch in range(2):
            condition = samples.sample(index, epoch)["condition"]
            holes = condition == KIND.value_range[0]
            assert 0 < holes.float().mean() < 1
            assert condition[~holes].min() >= 0
            assert bool((holes == holes[:1]).all())


def test_a_tile_of_a_photo_has_lost_detail_and_not_its_colors() -> None:
    found = prepare(Sample("a", picture(2, 128, 128), "a cat"), Preparation("tile"))
    image, condition = (
        np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float) for data in (found.image, found.condition)
    )
    assert np.abs(np.diff(condition, axis=0)).max() < 0.8 * np.abs(np.diff(image, axis=0)).max()
    assert np.abs(condition.mean(axis=(0, 1)) - image.mean(axis=(0, 1))).max() < 4


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_the_black_hole_of_a_drawing_is_the_hole(form: str) -> None:
    """Lines on white paper are nearly black and white, as a mask is."""
    drawing = Image.new("L", (96, 64), 255)
    pen = ImageDraw.Draw(drawing)
    for x in (4, 12, 76, 86):
        pen.line((x, 4, x, 58), fill=0, width=2)
    cut = drawing.copy()
    cut.paste(0, (24, 16, 64, 40))
    cut.save(file := io.BytesIO(), form)
    given = Image.open(file).convert("RGB")
    found = given_holes(given, given, drawing.convert("RGB"))
    assert (found & HOLE).sum() > 0.95 * (found | HOLE).sum()
