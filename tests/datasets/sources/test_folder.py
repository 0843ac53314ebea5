"""A folder of images with captions beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tether.datasets.names import IMAGE_SUFFIXES, Reading
from tether.datasets.prepare import Preparation, prepare
from tether.datasets.sources import open_source
from tether.images.read import FORMATS

from ..conftest import as_folder, picture, png


def test_a_caption_of_the_same_length_makes_it_another_source(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(picture(1)))
    (tmp_path / "a.txt").write_text("a red cat")
    before = open_source(tmp_path).fingerprint()
    (tmp_path / "a.txt").write_text("a tan cat")
    assert open_source(tmp_path).fingerprint() != before


def test_the_fingerprint_changes_with_the_source(tmp_path: Path) -> None:
    folder = as_folder(tmp_path)
    before = open_source(folder).fingerprint()
    (folder / "1.txt").write_text("other words")
    assert open_source(folder).fingerprint() != before


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_suffix_is_read(suffix: str, tmp_path: Path) -> None:
    if suffix == "avif" and "AVIF" not in FORMATS:
        pytest.skip("this Pillow has no AVIF")
    formats = {"jfif": "JPEG", "jpe": "JPEG", "pgm": "PPM", "pnm": "PPM", "pbm": "PPM"}
    picture(0).save(tmp_path / f"a.{suffix}", formats.get(suffix))
    (tmp_path / "a.txt").write_text("a")
    assert prepare(open_source(tmp_path)[0], Preparation("canny")).caption == "a"


def test_images_of_formats_that_are_not_read_are_counted(tmp_path: Path) -> None:
    as_folder(tmp_path)
    (tmp_path / "photo.HEIC").write_bytes(b"x")
    assert open_source(tmp_path).left_out == {".heic files, which are not read": 1}


@pytest.mark.parametrize(
    ("name", "text", "captions"),
    [
        ("a.txt", "a cat", ("a cat",)),
        ("a.caption", "a cat", ("a cat",)),
        ("a.png.txt", "a cat", ("a cat",)),
        ("a.json", json.dumps({"caption": "a cat", "url": "x"}), ("a cat",)),
        ("a.json", json.dumps({"tags": ["cat", "pet"]}), ("cat", "pet")),
        ("a.json", json.dumps(["a cat", "a pet"]), ("a cat", "a pet")),
    ],
)
def test_captions_come_from_a_file_beside_the_image(
    name: str, text: str, captions: tuple[str, ...], tmp_path: Path
) -> None:
    picture(0).save(tmp_path / "a.png")
    (tmp_path / name).write_text(text)
    assert open_source(tmp_path)[0].captions == captions


def test_captions_come_from_a_folder_of_captions(tmp_path: Path) -> None:
    for folder in ("images", "captions"):
        (tmp_path / folder).mkdir()
    picture(0).save(tmp_path / "images" / "a.png")
    (tmp_path / "captions" / "a.txt").write_text("a cat")
    assert open_source(tmp_path)[0].caption == "a cat"


def test_a_key_of_the_json_beside_an_image_can_be_named(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(json.dumps({"zh": "\u732b", "caption": "a cat"}))
    assert open_source(tmp_path, reading=Reading(caption_column="zh"))[0].caption == "\u732b"


def test_an_image_edited_in_place_is_other_content(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.bmp")
    source = open_source(tmp_path)
    before = source.content()
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "a.bmp")
    assert open_source(tmp_path).fingerprint() == source.fingerprint()
    assert source.content() != before
