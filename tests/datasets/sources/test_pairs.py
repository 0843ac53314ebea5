"""Conditions of a folder's images: found under every usual name, and never passed over in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tether.datasets.names import Reading
from tether.datasets.sources import open_source
from tether.errors import TetherError

from ..conftest import picture, pixels


def fill(root: Path, names: dict[str, int], captions: str = "") -> Path:
    """Images by the path of their file; captions beside those whose path starts with `captions`."""
    for name, number in names.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
        if name.startswith(captions):
            path.with_suffix(".txt").write_text(f"number {number}")
    return root


FORMS = {
    "dot": ("{}.png", "{}.control.png"),
    "underscore": ("{}.png", "{}_condition.png"),
    "hyphen": ("{}.jpeg.png", "{}.jpeg-cond.png"),
    "both marked": ("{}_image.png", "{}_hint.png"),
    "before": ("image_{}.png", "conditioning_{}.png"),
    "folders": ("images/{}.png", "conditioning_images/{}.png"),
    "folder below": ("{}.png", "conditions/{}.png"),
    "split folders": ("train/images/{}.png", "train/control/{}.png"),
    "nested": ("images/a/{}.png", "hints/a/{}.png"),
    "fill50k": ("target/{}.png", "source/{}.png"),
}


@pytest.mark.parametrize("form", sorted(FORMS))
def test_given_conditions_are_found_by_their_names(form: str, tmp_path: Path) -> None:
    image, condition = FORMS[form]
    fill(tmp_path, {image.format(k): k for k in range(3)} | {condition.format(k): 10 + k for k in range(3)})
    source = open_source(tmp_path)
    assert source.has_conditions
    assert source.conditions_from
    assert len(source) == 3
    for index, sample in enumerate(source):
        assert np.array_equal(pixels(sample.image), np.asarray(picture(index)))
        assert np.array_equal(pixels(sample.condition), np.asarray(picture(10 + index)))


def test_names_that_the_table_lacks_are_given_by_the_user(tmp_path: Path) -> None:
    marked = fill(tmp_path / "marked", {f"{k}.png": k for k in range(3)} | {f"{k}_edge.png": 10 + k for k in range(3)})
    folders = fill(tmp_path / "two", {f"a/{k}.png": k for k in range(3)} | {f"b/{k}.png": 10 + k for k in range(3)})
    for source in (
        open_source(marked, reading=Reading(condition_column="edge")),
        open_source(folders, reading=Reading(condition_folder="b")),
    ):
        assert len(source) == 3
        assert np.array_equal(pixels(source[1].condition), np.asarray(picture(11)))


@pytest.mark.parametrize(
    ("names", "option"),
    [
        ({f"{k}.png": k for k in range(3)} | {f"{k}_edge.png": 10 + k for k in range(3)}, "--condition-column"),
        ({f"a/{k}.png": k for k in range(3)} | {f"b/{k}.png": 10 + k for k in range(3)}, "--condition-folder"),
    ],
)
def test_what_looks_like_conditions_and_is_not_used_is_refused(
    names: dict[str, int], option: str, tmp_path: Path
) -> None:
    fill(tmp_path, names)
    with pytest.raises(TetherError, match=option):
        open_source(tmp_path)


def test_none_leaves_marked_conditions_out_and_makes_folders_ordinary(tmp_path: Path) -> None:
    marked = fill(tmp_path / "marked", {f"{k}.png": k for k in range(3)} | {f"{k}.cond.png": 10 + k for k in range(3)})
    source = open_source(marked, reading=Reading(condition_column="none"))
    assert (len(source), source.has_conditions) == (3, False)
    assert source.left_out == {"conditions, by request": 3}
    folders = fill(tmp_path / "two", {f"a/{k}.png": k for k in range(3)} | {f"b/{k}.png": 10 + k for k in range(3)})
    assert len(open_source(folders, reading=Reading(condition_folder="none"))) == 6


THIRD = [
    ("images/{}.png", "conditioning_images/{}.png", "depth/{}.png", Reading()),
    ("target/{}.png", "source/{}.png", "seg/{}.png", Reading()),
    ("images/{}.png", "canny/{}.png", "depth/{}.png", Reading(condition_folder="canny")),
    ("shots/{}.png", "canny/{}.png", "depth/{}.png", Reading(condition_folder="canny")),
    ("shots/{}.png", "canny/{}.png", "control/{}.png", Reading(condition_folder="canny")),
    ("{}.png", "control/{}.png", "depth/{}.png", Reading()),
    ("{}.png", "{}_depth.png", "control/{}.png", Reading(condition_column="depth")),
    ("{}.png", "depth/{}.png", "{}_control.png", Reading(condition_folder="depth")),
]


@pytest.mark.parametrize(("image", "condition", "third", "reading"), THIRD)
def test_maps_of_another_kind_are_neither_images_nor_conditions(
    image: str, condition: str, third: str, reading: Reading, tmp_path: Path
) -> None:
    forms = (image, condition, third)
    names = {form.format(k): 10 * place + k for place, form in enumerate(forms) for k in range(3)}
    source = open_source(fill(tmp_path, names, captions=image.split("{")[0] or "?"), reading=reading)
    assert len(source) == 3
    for index, sample in enumerate(source):
        assert np.array_equal(pixels(sample.image), np.asarray(picture(index)))
        assert np.array_equal(pixels(sample.condition), np.asarray(picture(10 + index)))
    assert source.left_out == {"other images of the same names": 3}


def test_it_is_asked_which_of_several_folders_holds_the_images_or_the_conditions(tmp_path: Path) -> None:
    names = {f"{word}/{k}.png": 10 * n + k for n, word in enumerate(("shots", "canny", "depth")) for k in range(3)}
    with pytest.raises(TetherError, match=r"depth/0\.png and shots/0\.png have the name of the condition"):
        open_source(fill(tmp_path / "a", names), reading=Reading(condition_folder="canny"))
    names = {f"{word}/{k}.png": 10 * n + k for n, word in enumerate(("images", "hints", "guides")) for k in range(3)}
    with pytest.raises(TetherError, match="guides and hints hold conditions of the same images"):
        open_source(fill(tmp_path / "b", names))


@pytest.mark.parametrize(
    ("folders", "captions"),
    [(("images", "canny", "depth"), "captions"), (("images", "canny", "depth"), "images"), (("", "edges"), "")],
)
def test_folders_of_the_same_names_are_refused_however_many_they_are(
    folders: tuple[str, ...], captions: str, tmp_path: Path
) -> None:
    names = [f"{folder}/{k}.png".lstrip("/") for folder in folders for k in range(3)]
    fill(tmp_path, {name: number for number, name in enumerate(names)}, captions="none")
    (tmp_path / captions).mkdir(exist_ok=True)
    for k in range(3):
        (tmp_path / captions / f"{k}.txt").write_text("a cat")
    with pytest.raises(TetherError, match="hold images of the same names"):
        open_source(tmp_path)
    assert len(open_source(tmp_path, reading=Reading(condition_folder="none"))) == len(names)


def test_images_that_differ_in_their_format_alone_are_told_apart_by_the_user(tmp_path: Path) -> None:
    fill(tmp_path, {f"{k}.{ending}": k + add for k in range(3) for ending, add in (("bmp", 0), ("png", 10))})
    with pytest.raises(TetherError, match="--condition-column png"):
        open_source(tmp_path)
    source = open_source(tmp_path, reading=Reading(image_column="bmp", condition_column="png"))
    assert np.array_equal(pixels(source[1].image), np.asarray(picture(1)))
    assert np.array_equal(pixels(source[1].condition), np.asarray(picture(11)))
    source = open_source(tmp_path, reading=Reading(image_column="bmp"))
    assert (len(source), dict(source.left_out)) == (3, {"other images of the same names": 3})
    for k in range(3):
        for ending in ("bmp", "png"):
            (tmp_path / f"{k}.{ending}.txt").write_text(ending)
        (tmp_path / f"{k}.txt").unlink()
    assert len(open_source(tmp_path)) == 6


def test_folders_of_classes_are_images_and_no_conditions(tmp_path: Path) -> None:
    names = {f"{word}/{k}.png": 10 * n + k for n, word in enumerate(("apple", "cat", "dog")) for k in range(3)}
    source = open_source(fill(tmp_path, names))
    assert (len(source), source.has_conditions) == (9, False)


def test_a_condition_without_its_image_is_counted(tmp_path: Path) -> None:
    fill(tmp_path, {"0.png": 0, "0.condition.png": 1, "1.condition.png": 2})
    assert open_source(tmp_path).left_out == {"conditions without an image": 1}


def test_an_image_whose_name_ends_like_a_mark_is_an_image(tmp_path: Path) -> None:
    fill(tmp_path, {"air_control.png": 0, "tower.png": 1})
    source = open_source(tmp_path)
    assert (len(source), source.has_conditions) == (2, False)


def test_a_folder_that_is_named_and_missing_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, {"0.png": 0})
    with pytest.raises(TetherError, match="no folder 'maps'"):
        open_source(tmp_path, reading=Reading(condition_folder="maps"))
    with pytest.raises(TetherError, match=r"expected names as in a\.maps\.png"):
        open_source(tmp_path, reading=Reading(condition_column="maps"))


def test_many_folders_of_running_numbers_are_classes_or_clips(tmp_path: Path) -> None:
    fill(tmp_path, {f"clip{n}/{k:04}.png": n + k for n in range(6) for k in range(2)}, captions="none")
    assert len(open_source(tmp_path, reading=Reading(captions="none"))) == 12


def test_one_image_in_two_formats_among_many_is_no_condition(tmp_path: Path) -> None:
    fill(tmp_path, {f"{k}.png": k for k in range(5)} | {"0.bmp": 7})
    assert len(open_source(tmp_path)) == 6
    assert len(open_source(tmp_path, reading=Reading(condition_folder="none"))) == 6


def test_a_folder_named_as_a_column_is_that_folder(tmp_path: Path) -> None:
    fill(tmp_path, {f"images/{k}.png": k for k in range(3)} | {f"conditioning_images/{k}.png": 9 for k in range(3)})
    source = open_source(tmp_path, reading=Reading(condition_column="conditioning_image"))
    assert source.has_conditions
    assert len(source) == 3
