"""Words that a base does not know are said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tether.base import Base
from tether.base.words import MultiwordTokenizer
from tether.cli.words import known_words, unknown_words


@pytest.fixture
def listed(tiny_base: Base, tmp_path: Path) -> Base:
    (tmp_path / "words.txt").write_text("# trained words\napple\nbox red\nberry\nglasses\n3d\n")
    tiny_base.source, tiny_base.name = tmp_path, "tiny"
    return tiny_base


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("a Red apple, 3D", "a"),
        ("(apples:1.2) [boxes] BREAK berries, glass", None),
        ("apple airplane airplane zebra", "airplane, zebra"),
        ("", None),
    ],
)
def test_unknown_words_are_listed_once(listed: Base, prompt: str, unknown: str | None) -> None:
    expected: Any = None if unknown is None else f"tiny was not trained on: {unknown}"
    assert unknown_words(listed, [prompt]) == expected


def test_a_base_without_a_list_says_nothing(tiny_base: Base) -> None:
    assert known_words(tiny_base.source) == frozenset()
    assert unknown_words(tiny_base, ["anything"]) is None


def test_words_of_an_embedding_are_known(listed: Base) -> None:
    part = listed.text.parts[0]
    part.tokenizer = MultiwordTokenizer(part.tokenizer, {"<my-style>": [1], "sketchy": [2]})
    assert unknown_words(listed, ["apple <my-style> sketchy"]) is None
