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
