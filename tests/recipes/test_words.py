"""What drawings are called in captions."""

from __future__ import annotations

import re

import pytest

import words


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("apple", "an apple"),
        ("red apple", "a red apple"),
        ("unicorn", "a unicorn"),
        ("orange cat", "an orange cat"),
        ("jeans", "jeans"),
        ("glass of milk", "a glass of milk"),
        ("pair of cherries", "a pair of cherries"),
        ("bread", "bread"),
        ("glass", "a glass"),
        ("octopus", "an octopus"),
    ],
)
def test_nouns_get_the_article_that_they_need(noun: str, expected: str) -> None:
    assert words.with_article(noun) == expected


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("cat", "cats"),
        ("mouse", "mice"),
        ("cherry", "cherries"),
        ("toy", "toys"),
        ("fox", "foxes"),
        ("snowman", "snowmen"),
        ("fish", "fish"),
        ("house with garden", None),
        ("flowers", None),
        ("bread", None),
    ],
)
def test_nouns_get_their_plural_or_none(noun: str, expected: str | None) -> None:
    assert words.plural(noun) == expected


def test_held_out_synonyms_are_in_no_caption() -> None:
    held_out = [word for found in words.held_out_words().values() for word in found]
    total = sum(len(found) for found in words.SYNONYMS.values())
    assert 0.04 * total < len(held_out) < 0.1 * total
    said = {word for name in words.SYNONYMS for word in words.words_of(name)}
    for word in held_out:
        assert not any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", other) for other in said), word
    assert not said & words.HELD_OUT_NAMES


def test_every_name_has_a_word() -> None:
    assert all(words.words_of(name) for name in words.SYNONYMS if name not in words.HELD_OUT_NAMES)
    assert words.words_of("a name without synonyms", ("other",)) == ("a name without synonyms", "other")


def test_plain_words_name_no_color() -> None:
    assert "apple" in words.plain_words("red apple")
    assert not any(words.says_color(word) for name in words.SYNONYMS for word in words.plain_words(name))


def test_marks_give_the_words_of_each_thing() -> None:
    caption = f"{words.mark('a red apple', 2)} left of {words.mark('a cat', 3)}, {words.mark('blue background', 0)}"
    plain, spans = words.unmark(caption)
    assert plain == "a red apple left of a cat, blue background"
    assert [(group, plain[first:last]) for group, first, last in spans] == [
        (2, "a red apple"),
        (3, "a cat"),
        (0, "blue background"),
    ]
