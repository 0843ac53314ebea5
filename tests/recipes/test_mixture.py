"""Plans of composed images, on a bank of a few made-up entries."""

from __future__ import annotations

import re
from random import Random
from typing import Any

import numpy as np
import pytest

from backdrops import PLACES
from mixture import CAPTIONS, LAYERS, MAKERS, NUMBERS, STYLES, Plan, Planner, count_plans, jobs, make_plans
from tether.datasets.synthetic.emoji import BACKGROUNDS
from tether.datasets.synthetic.scenes import COLORS
from words import HELD_OUT_NAMES, SHADES, is_left_out, unmark, words_of

CORE = ("red apple", "cat face", "rocket", "star", "dog", "left arrow")
BACKDROPS = [*BACKGROUNDS, *PLACES]


def entry(name: str, style: str, rank: str, color: str | None, recolored: bool) -> dict[str, Any]:
    plain = {"name": name, "synonyms": [], "style": f"{style} emoji", "rank": rank, "box": [0.1, 0.1, 0.9, 0.9]}
    return plain | {"color": color, "recolored": recolored}


@pytest.fixture(scope="module")
def planner() -> Planner:
    entries = [
        entry(name, style, rank, color, recolored)
        for style in STYLES
        for rank, names in (("core", CORE), ("more", ("tiger face",)), ("rest", ("linked paperclips",)))
        for name in names
        for color, recolored in ((None, False), ("green", True))
    ]
    horizons = np.array([0.0] * len(BACKGROUNDS) + [0.6] * len(PLACES))
    return Planner(entries, horizons, BACKDROPS, centred=0.5)


def plans(planner: Planner, kind: str, count: int = 60) -> list[Plan]:
    return make_plans((kind, count, 5), planner)


@pytest.mark.parametrize("kind", list(MAKERS))
def test_plans_are_whole_and_follow_from_their_seed(planner: Planner, kind: str) -> None:
    made = plans(planner, kind)
    assert made == plans(planner, kind)
    for plan in made:
        assert 1 <= len(plan.layers) <= LAYERS
        assert len(plan.captions) == CAPTIONS
        for layer in plan.layers:
            assert 0 <= layer.x <= 1
            assert 0 <= layer.y <= 1
            assert 0.1 < layer.scale < 1.1


@pytest.mark.parametrize("kind", list(MAKERS))
def test_captions_name_what_is_drawn(planner: Planner, kind: str) -> None:
    for plan in plans(planner, kind):
        for caption in (unmark(marked)[0] for marked in plan.captions):
            for layer in plan.layers:
                nouns = words_of(planner.entries[layer.drawing]["name"])
                stems = {re.sub("(y|e|mouse|fe?)$", "", noun.split()[-1]) for noun in nouns}
                assert any(stem in caption for stem in stems), (caption, nouns)
            styles = re.findall(rf"({'|'.join(STYLES)}) emoji", caption)
            assert all(f"{style} emoji" == planner.entries[plan.layers[0].drawing]["style"] for style in styles)


@pytest.mark.parametrize("kind", list(MAKERS))
def test_no_caption_has_what_is_held_out(planner: Planner, kind: str) -> None:
    captions = [unmark(marked)[0] for plan in plans(planner, kind) for marked in plan.captions]
    assert not any(is_left_out(caption) for caption in captions)
    assert not HELD_OUT_NAMES & {
        planner.entries[layer.drawing]["name"] for p in plans(planner, kind) for layer in p.layers
    }


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "places"])
def test_backgrounds_other_than_white_are_named(planner: Planner, kind: str) -> None:
    for plan in plans(planner, kind):
        background = BACKDROPS[plan.background]
        for caption in (unmark(marked)[0] for marked in plan.captions):
            named = re.findall(r"(\w+) background", caption)
            assert named == [background] or (background == "white" and not named), caption


def test_places_are_named_and_things_stand_on_their_ground(planner: Planner) -> None:
    for plan in plans(planner, "places"):
        place, (layer,) = BACKDROPS[plan.background], plan.layers
        assert all(any(phrase in caption for phrase in PLACES[place][1]) for caption in plan.captions)
        assert layer.y + 0.4 * layer.scale > 0.6  # the bottom of its box is below the horizon


def test_counts_are_those_of_the_layers(planner: Planner) -> None:
    for plan in plans(planner, "counts"):
        said = ("a pair of", *NUMBERS[2]) if len(plan.layers) == 2 else NUMBERS[len(plan.layers)]
        assert len({layer.drawing for layer in plan.layers}) == 1
        assert all(any(number in caption for number in said) for caption in plan.captions)


def test_a_changed_color_is_always_named(planner: Planner) -> None:
    for plan in plans(planner, "recolored"):
        assert planner.entries[plan.layers[0].drawing]["recolored"]
        assert all(any(word in caption for word in ("green", *SHADES["green"])) for caption in plan.captions)
        assert BACKDROPS[plan.background] != "green"


def test_pairs_are_where_their_captions_say(planner: Planner) -> None:
    orders = {"left of": (0, 1, "x"), "right of": (1, 0, "x"), "above": (0, 1, "y"), "below": (1, 0, "y")}
    seen = set()
    for plan in plans(planner, "pairs", 200):
        for marked in plan.captions:
            caption, spans = unmark(marked)
            things = [group - 2 for group, _, _ in spans if group >= 2]
            assert sorted(things) == [0, 1]
            for group, first, last in spans:
                if group >= 2:
                    nouns = words_of(planner.entries[plan.layers[group - 2].drawing]["name"])
                    assert any(caption[first:last].endswith(noun.split()[-1]) for noun in nouns)
            for words, (first, second, axis) in orders.items():
                if f" {words} " in caption:
                    one, two = (getattr(plan.layers[things[k]], axis) for k in (first, second))
                    assert one < two, caption
                    seen.add(words)
    assert seen == set(orders)


def test_what_names_a_side_is_never_mirrored(planner: Planner) -> None:
    layers = [layer for kind in ("core", "places", "pairs") for plan in plans(planner, kind) for layer in plan.layers]
    sided = [layer for layer in layers if planner.entries[layer.drawing]["name"] == "left arrow"]
    assert sided
    assert not any(layer.flip for layer in sided)
    assert any(layer.flip for layer in layers)


def test_jobs_cover_all_plans() -> None:
    counts = count_plans(0.02)
    made = jobs(counts, 3)
    assert {kind: sum(count for each, count, _ in made if each == kind) for kind in counts} == counts
    assert len({(kind, seed) for kind, _, seed in made}) == len(made)
    assert all(count == 1 for count in count_plans(0).values())


def test_colors_of_shades_are_named_colors() -> None:
    assert SHADES.keys() == COLORS.keys()
    assert Random(0).choice(SHADES["red"]) in SHADES["red"]
