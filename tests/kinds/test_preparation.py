"""Images are fitted first and annotated at the size that is drawn, whoever asks."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tether.errors import TetherError
from tether.images import FitRule, fit, fit_condition, inner_size
from tether.kinds import annotate, fit_map, flip_map, flip_of, kinds, prepare
from tether.kinds.canny import random_canny

SIZES = [(64, 64), (96, 40), (200, 304)]
RULES: list[FitRule] = ["stretch", "crop", "pad"]


@pytest.fixture
def photo() -> Image.Image:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 90, (80, 120, 3), np.uint8)).resize((180, 120))
    ImageDraw.Draw(image).ellipse((30, 20, 100, 90), fill=(230, 200, 60))
    return image


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["canny", "scribble", "tile"])
def test_the_map_is_that_of_the_fitted_image_with_a_black_border(
    photo: Image.Image, kind: str, size: tuple[int, int], rule: FitRule
) -> None:
    inner = inner_size(photo, *size) if rule == "pad" else size
    fitted = fit(photo, *inner, "stretch" if rule == "pad" else rule)
    expected = Image.new("RGB", size)
    expected.paste(annotate(kind, fitted), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    prepared = prepare(photo, kind, size, fit=rule)
    assert prepared.photo.tobytes() == fitted.tobytes()
    assert prepared.condition.size == size
    assert prepared.condition.tobytes() == expected.tobytes()


def test_the_border_of_a_padded_image_is_not_an_edge() -> None:
    flat = Image.new("RGB", (120, 60), (90, 90, 90))
    assert prepare(flat, "canny", (64, 64), fit="pad").condition.getextrema() == ((0, 0),) * 3


@pytest.mark.parametrize("rule", RULES)
def test_a_ready_made_map_is_only_fitted(photo: Image.Image, rule: FitRule) -> None:
    map_ = annotate("canny", photo)
    prepared = prepare(map_, None, (64, 48), fit=rule)
    assert prepared.photo is prepared.condition
    assert prepared.condition.tobytes() == fit_condition(map_, 64, 48, rule).tobytes()


def test_options_and_annotator_are_those_of_annotate(photo: Image.Image) -> None:
    prepared = prepare(photo, "canny", photo.size, annotator="opencv", options={"low": 20, "high": 40})
    assert prepared.condition.tobytes() == annotate("canny", photo, low=20, high=40).tobytes()
    with pytest.raises(TetherError, match="no annotator 'hed'"):
        prepare(photo, "canny", (64, 64), annotator="hed")
    with pytest.raises(TetherError, match="keypoints has no annotator"):
        prepare(photo, "keypoints", (64, 64))
    with pytest.raises(TetherError, match="fit 'squeeze' is unknown"):
        prepare(photo, "canny", (64, 64), fit="squeeze")  # type: ignore[arg-type]


def test_a_generator_varies_the_map_where_the_kind_can_and_no_options_are_given(photo: Image.Image) -> None:
    varied = prepare(photo, "canny", photo.size, rng=np.random.default_rng(3)).condition
    expected = random_canny(np.asarray(photo), np.random.default_rng(3))
    assert np.array_equal(np.asarray(varied), np.stack([expected] * 3, axis=2))
    plain = annotate("canny", photo).tobytes()
    assert varied.tobytes() != plain
    assert prepare(photo, "canny", photo.size, options={}, rng=np.random.default_rng(3)).condition.tobytes() == plain
    scribble = prepare(photo, "scribble", photo.size, rng=np.random.default_rng(3)).condition
    assert scribble.tobytes() == annotate("scribble", photo).tobytes()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rule", ["stretch", "crop"])
@pytest.mark.parametrize("name", [kind.name for kind in kinds().values() if kind.resize == "nearest"])
def test_resizing_by_nearest_makes_no_new_colors(name: str, rule: FitRule, size: tuple[int, int]) -> None:
    classes = np.random.default_rng(0).integers(0, 256, (7, 3), np.uint8)
    map_ = Image.fromarray(classes[np.random.default_rng(1).integers(0, 7, (50, 90))])
    before, after = map_.getcolors(), fit_map(map_, name, size, rule).getcolors()
    assert before is not None
    assert after is not None
    assert {color for _, color in after} <= {color for _, color in before}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [*(k.name for k in kinds().values() if k.resize == "lines"), "mine", None])
def test_lines_stay_black_and_white(name: str | None, size: tuple[int, int], rule: FitRule) -> None:
    map_ = Image.new("RGB", (150, 130))
    ImageDraw.Draw(map_).line((3, 5, 140, 120), fill="white")
    fitted = fit_map(map_, name, size, rule)
    assert set(np.unique(np.asarray(fitted))) == {0, 255}
    assert fitted.tobytes() == fit_condition(map_, *size, rule).tobytes()


def test_smooth_maps_are_blended_and_padded_with_black() -> None:
    map_ = Image.new("RGB", (64, 64), "white")
    map_.paste((0, 0, 0), (0, 0, 31, 64))
    assert len(np.unique(np.asarray(fit_map(map_, "depth", (16, 16))))) == 3
    padded = fit_map(map_.convert("L"), "depth", (32, 16), "pad")
    assert (padded.mode, padded.getpixel((31, 8)), padded.getpixel((22, 8))) == ("RGB", (0, 0, 0), (255, 255, 255))


def test_colors_that_may_say_left_or_right_are_not_mirrored_unless_it_is_known_how() -> None:
    for name in ("canny", "depth", "mine", "my-canny", "openpose", "normal"):
        assert flip_of(name) is not None, name
    for name in ("keypoints", "hand", "my-pose", "dwpose", "normalbae"):
        assert flip_of(name) is None, name
    with pytest.raises(TetherError, match="a map of my-pose cannot be mirrored"):
        flip_map(Image.new("RGB", (8, 8)), "my-pose")


@pytest.mark.parametrize("name", ["canny", "mine"])
def test_most_maps_are_mirrored_as_images_are(name: str, photo: Image.Image) -> None:
    assert flip_map(photo, name).tobytes() == photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes()
