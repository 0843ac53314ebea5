"""Which captions a mirrored image would contradict."""

from __future__ import annotations

import pytest

from tether.datasets.sided import names_a_side, names_writing


@pytest.mark.parametrize(
    "words",
    [
        "a hand to the left",
        "Leftwards arrow",
        "the rightmost door",
        "a counter-clockwise arrow",
        "the waxing moon",
        "last quarter moon with face",
        "left-pointing magnifying glass",
    ],
)
def test_words_of_a_side_or_a_handed_thing_are_found(words: str) -> None:
    assert names_a_side(words)


@pytest.mark.parametrize("words", ["a quarter of a melon, brightly lit", "a clock", "nothing is leftover", ""])
def test_other_words_are_not(words: str) -> None:
    assert not names_a_side(words)


@pytest.mark.parametrize(
    "words",
    [
        'a shop called "Open"',
        "a sign with the word STOP",
        "it says 'stop' here",
        "a newspaper",
        "keycap 3",
        "a company logo",
    ],
)
def test_words_of_writing_are_found(words: str) -> None:
    assert names_writing(words)


@pytest.mark.parametrize("words", ["a dog's tail and a cat's ear", "a man reading", "swords and contexts", ""])
def test_words_without_writing_are_not(words: str) -> None:
    assert not names_writing(words)
