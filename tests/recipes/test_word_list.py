"""The words of the captions, and the list of them beside the shipped base."""

from __future__ import annotations

from pathlib import Path

from word_list import count_words, scene_words
from words import SYNONYMS, held_out_words, words_of

SHIPPED = Path(__file__).parents[2] / "src/tether/weights/base/words.txt"


def test_words_are_counted_in_lower_case_with_hyphens_and_apostrophes() -> None:
    counted = count_words(["A red apple, 3D emoji", "a heart-shaped box on a pink background", "a devil's face"])
    assert counted["a"] == 4
    assert {"3d", "heart-shaped", "devil's"} <= counted.keys()


def test_scenes_have_four_captions() -> None:
    assert scene_words(0)["scene"] == 4


def test_the_shipped_list_has_all_that_is_said_and_nothing_that_is_held_out() -> None:
    rows = [line.rsplit(" ", 1) for line in SHIPPED.read_text().splitlines()]
    counts = {word: int(count) for word, count in rows}
    assert len(counts) == len(rows)
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    said = {part for name in SYNONYMS for word in words_of(name)[:1] for part in count_words([word])}
    assert said <= counts.keys()
    held_out = {word for found in held_out_words().values() for word in found if count_words([word]).keys() == {word}}
    assert held_out
    assert not held_out & counts.keys()
