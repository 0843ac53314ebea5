"""The table of names, and what a record's captions are."""

from __future__ import annotations

import pytest

from tether.datasets.names import CONDITION_NAMES, Reading, caption_values, find_names, normal, unmarked
from tether.errors import TetherError
from tether.images.read import FORMATS


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("conditioning_image_file_name", "conditioning_image"),
        ("Conditioning-Images", "conditioning_image"),
        ("image_path", "image"),
        ("control", "control"),
        ("file_name", "file_name"),
        ("glass", "glass"),
    ],
)
def test_case_hyphens_plurals_and_endings_do_not_matter(name: str, plain: str) -> None:
    assert normal(name) == plain


@pytest.mark.parametrize("stem", ["0.control", "0_control", "0-control", "control_0", "0_CONDITION", "0.hints"])
def test_a_mark_is_found_before_and_after_the_name(stem: str) -> None:
    assert unmarked(stem, CONDITION_NAMES) == "0"


def test_a_name_without_a_mark_has_none() -> None:
    assert unmarked("remote_controlled_car", CONDITION_NAMES) is None
    assert unmarked("control", CONDITION_NAMES) is None


def test_a_name_that_the_user_gives_wins_and_must_exist() -> None:
    assert find_names(["a", "hint"], CONDITION_NAMES, "a", "condition") == ("a",)
    assert find_names(["a", "hint"], CONDITION_NAMES, None, "condition") == ("hint",)
    assert find_names(["a", "hint"], CONDITION_NAMES, "none", "condition") == ()
    with pytest.raises(TetherError, match="no condition column 'b': the source has a, hint"):
        find_names(["a", "hint"], CONDITION_NAMES, "b", "condition")


def test_captions_are_a_string_or_a_list_under_a_usual_key() -> None:
    assert caption_values({"url": "x", "text": "a cat"}) == ("a cat",)
    assert caption_values({"captions": ["a cat", 3, " ", "a pet"]}) == ("a cat", "a pet")
    assert caption_values({"text": 3, "prompt": "a cat"}) == ("a cat",)


def test_an_unknown_use_of_captions_is_refused() -> None:
    with pytest.raises(TetherError, match="choose one of one, all, none"):
        Reading(captions="two")  # type: ignore[arg-type]


def test_every_format_that_has_a_suffix_is_read() -> None:
    assert {"PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "TGA", "DIB"} <= set(FORMATS)
