"""A folder of images with captions beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tether.datasets.names import IMAGE_SUFFIXES, Reading
from tether.datasets.prepare import Preparation, prepare
from tether.datasets.source import Rejected
from tether.datasets.sources import open_source
from tether.errors import TetherError
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


@pytest.mark.parametrize(
    ("image", "caption"),
    [
        ("images/a.png", "captions/a.txt"),
        ("a.png", "captions/a.txt"),
        ("train/images/a.png", "train/captions/a.txt"),
        ("images/cats/a.png", "captions/cats/a.txt"),
        ("images/a.png", "images/text/a.caption"),
    ],
)
def test_captions_come_from_a_folder_of_captions(image: str, caption: str, tmp_path: Path) -> None:
    for path in (tmp_path / image, tmp_path / caption):
        path.parent.mkdir(parents=True, exist_ok=True)
    picture(0).save(tmp_path / image)
    (tmp_path / caption).write_text("a cat")
    assert open_source(tmp_path)[0].caption == "a cat"


def test_linked_folders_are_read_and_hidden_ones_are_not(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    folder = as_folder(tmp_path / "all")
    for place in (folder / ".thumbs", tmp_path / "elsewhere"):
        place.mkdir()
        picture(7).save(place / "a.png")
        (place / "a.txt").write_text("a cat")
    (folder / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (folder / "round").symlink_to(folder, target_is_directory=True)
    source = open_source(folder, reading=Reading(condition_column="none"))
    keys = [source.key(index) for index in range(len(source))]
    assert keys == [*(f"{k}.png" for k in range(5)), "linked/a.png"]


def test_boxes_are_no_captions(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for k, words in enumerate(("0 0.5 0.5 0.25 0.125\n3 0.1 0.1 0.2 0.2\n", "7", "2 cats at 10 to 5, 1 dog")):
        picture(k).save(tmp_path / "images" / f"{k}.png")
        (tmp_path / "images" / f"{k}.txt").write_text(words)
        (tmp_path / "labels" / f"{k}.txt").write_text(words)
    source = open_source(tmp_path)
    with pytest.raises(Rejected, match="empty caption"):
        prepare(source[0], Preparation("canny"))
    assert [prepare(source[k], Preparation("canny")).caption for k in (1, 2)] == ["7", "2 cats at 10 to 5, 1 dog"]
    for path in (tmp_path / "images").glob("*.txt"):
        path.unlink()
    assert open_source(tmp_path)[1].caption == ""


@pytest.mark.parametrize("column", ["zh", "a/b"])
def test_a_caption_that_the_user_named_is_not_replaced_by_another(column: str, tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a cat")
    (tmp_path / "a.json").write_text(json.dumps({"caption": "a cat"}))
    with pytest.raises(TetherError, match=f"no image has a caption '{column}'"):
        open_source(tmp_path, reading=Reading(caption_column=column))
    picture(1).save(tmp_path / "b.png")
    (tmp_path / "b.zh").write_text("\u732b")
    source = open_source(tmp_path, reading=Reading(caption_column="zh"))
    assert [sample.caption for sample in source] == ["", "\u732b"]


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
