"""How a base is sampled travels in a file's metadata."""

from __future__ import annotations

import json

import pytest

from tether.errors import TetherError
from tether.formats.families import family_settings
from tether.formats.sampling import FORMER_SPACING, SAMPLING, differing_sampling, with_sampling

XL = family_settings("sdxl")
CHANGES = {
    "timestep_spacing": "trailing",
    "steps_offset": 0,
    "set_alpha_to_one": None,
    "force_zeros_for_empty_prompt": False,
    "sample_size": 64,
}


def test_what_a_family_implies_is_not_written() -> None:
    assert differing_sampling(XL["scheduler"], XL["index"], XL["unet"], XL) == {}


def test_what_differs_comes_back() -> None:
    schedule = XL["scheduler"] | {"timestep_spacing": "trailing", "steps_offset": 0}
    del schedule["set_alpha_to_one"]
    index, unet = XL["index"] | {"force_zeros_for_empty_prompt": False}, XL["unet"] | {"sample_size": 64}
    written = differing_sampling(schedule, index, unet, XL)
    assert written == CHANGES
    read = with_sampling(XL, {SAMPLING: json.dumps(written)}, "it")
    assert (read["scheduler"], read["index"], read["unet"]) == (schedule, index, unet)


def test_a_file_that_says_nothing_is_as_its_family_and_remembers_what_it_was_taken_for() -> None:
    settings = family_settings("sd1")
    schedule = with_sampling(settings, {}, "it")["scheduler"]
    assert "timestep_spacing" not in schedule
    assert schedule[FORMER_SPACING] == "leading"
    assert FORMER_SPACING not in with_sampling(settings, {SAMPLING: "{}"}, "it")["scheduler"]
    assert with_sampling(XL, {}, "it")["scheduler"] == XL["scheduler"]


@pytest.mark.parametrize(
    "text", ["[]", "3", "{", '{"steps_offset": "1"}', '{"steps_offset": true}', '{"other": 1}', "[" * 5000]
)
def test_damaged_metadata_are_refused(text: str) -> None:
    with pytest.raises(TetherError, match=r"it is damaged: its metadata tether\.sampling is not a JSON object"):
        with_sampling(XL, {SAMPLING: text}, "it")
