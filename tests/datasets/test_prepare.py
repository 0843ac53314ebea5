"""How one sample is prepared."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tether.datasets.build import build_dataset
from tether.datasets.check import open_dataset
from tether.datasets.prepare import Preparation, encode, prepare
from tether.datasets.source import Rejected, Sample
from tether.datasets.sources import open_source
from tether.errors import TetherError
from tether.kinds import annotate

from .conftest import picture


def test_conditions_are_annotated_at_the_size_that_is_kept(photos: Path, tmp_path: Path) -> None:
    build_dataset(photos, tmp_path / "out", "canny", options={"low": 50, "high": 90}, size=32, workers=0)
    _, reader = open_dataset(tmp_path / "out")
    for index in range(len(reader)):
        sample = reader.sample(index)
        assert isinstance(sample.image, bytes)
        assert isinstance(sample.condition, bytes)
        image = Image.open(io.BytesIO(sample.image)).convert("RGB")
        assert image.size == (36, 32)
        edges = annotate("canny", image, low=50, high=90)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(sample.condition)).convert("RGB")), np.asarray(edges))


def test_jpeg_stays_jpeg_and_the_rest_stays_lossless(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    for k, name in enumerate(("a.jpg", "b.png", "c.webp")):
        picture(k).save(folder / name)
        (folder / name).with_suffix(".txt").write_text("words")
    build_dataset(folder, tmp_path / "out", "canny", workers=0)
    with tarfile.open(tmp_path / "out" / "shard-00000.tar") as archive:
        assert [name for name in archive.getnames() if name.endswith((".jpg", "0.png", "1.png", "2.png"))] == [
            "00000000.jpg",
            "00000001.png",
            "00000002.png",
        ]


def test_options_are_refused_where_the_source_brings_conditions() -> None:
    with pytest.raises(TetherError, match="leave the annotator's options out"):
        Preparation("canny", {"low": 1}).check_condition(open_source("circles", size=16, count=1))
    with pytest.raises(TetherError, match="size is 4 and min_side 64: give at least 8 and 1 pixels"):
        Preparation("canny", size=4)


def test_random_options_are_a_function_of_the_pixels() -> None:
    one, again, other = (prepare(Sample("key", picture(number), "words"), Preparation("canny")) for number in (1, 1, 2))
    assert (one.condition, one.content) == (again.condition, again.content)
    assert one.content != other.content
    low = prepare(Sample("key", picture(1), "words"), Preparation("canny", {"low": 10, "high": 20}))
    assert low.condition != one.condition


def test_a_caption_becomes_one_line_and_an_empty_one_is_rejected() -> None:
    assert prepare(Sample("key", picture(1), " two\nlines\t here "), Preparation("canny")).caption == "two lines here"
    with pytest.raises(Rejected, match="empty caption: the image has no caption"):
        prepare(Sample("key", picture(1), " \n"), Preparation("canny"))


def test_a_gray_image_has_one_channel_and_comes_back_the_same() -> None:
    for image in (picture(1), picture(1).convert("L").convert("RGB")):
        shown = Image.open(io.BytesIO(encode(image, "png")))
        assert shown.mode == ("RGB" if image == picture(1) else "L")
        assert np.array_equal(np.asarray(shown.convert("RGB")), np.asarray(image))


def test_a_ready_made_map_is_resized_by_the_rule_of_its_kind() -> None:
    classes = np.kron(np.random.default_rng(0).integers(0, 2, (9, 9)), np.ones((7, 7))).astype(np.uint8)
    condition = Image.fromarray(np.array([[120, 120, 120], [150, 5, 61]], np.uint8)[classes])
    sample = Sample("key", picture(1, 64, 64).resize(condition.size), "words", condition)
    made = Image.open(io.BytesIO(prepare(sample, Preparation("seg", size=40, min_side=8)).condition)).convert("RGB")
    assert made.size == (40, 40)
    assert {tuple(color) for color in np.asarray(made).reshape(-1, 3)} == {(120, 120, 120), (150, 5, 61)}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_of_a_given_map_are_black(mode: str) -> None:
    line = Image.new("L", (64, 64))
    line.paste(255, (30, 0, 34, 64))
    if mode == "P":
        given = line.convert("P")
        given.info["transparency"] = 0
    else:
        given = Image.merge("LA", (Image.new("L", line.size, 255), line)).convert(mode)
    found = prepare(Sample("a", Image.new("RGB", (64, 64), "red"), "a", given), Preparation("scribble"))
    shown = np.asarray(Image.open(io.BytesIO(found.condition)).convert("L"))
    assert np.array_equal(shown, np.asarray(line))


def test_captions_are_kept_joined_or_left_out() -> None:
    sample = Sample("a", Image.new("RGB", (64, 64)), " a cat ", None, ("a\npet", "a cat", " "))
    one, all_, none = (prepare(sample, Preparation("canny", captions=how)) for how in ("one", "all", "none"))
    assert (one.caption, one.further_captions) == ("a cat", ("a pet",))
    assert (all_.caption, all_.further_captions) == ("a cat, a pet", ())
    assert (none.caption, none.further_captions) == ("", ())
