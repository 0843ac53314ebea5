"""Words of embeddings are found as words of their own, and replaced by their token ids."""

from __future__ import annotations

import copy

import pytest
import torch

from tether.base import Base
from tether.base.words import MultiwordTokenizer


@pytest.fixture
def tokenizer(tiny_base: Base) -> MultiwordTokenizer:
    return MultiwordTokenizer(
        tiny_base.tokenizer, {"sks": [100], "sks2": [101, 102], "<a-b>": [103], "dark red": [104]}
    )


def segments(tokenizer: MultiwordTokenizer, text: str, whole: bool = True) -> list[str]:
    """The text with its words' ids in braces."""
    return [part if ids is None else str(set(ids)) for part, ids in tokenizer.segments(text, whole)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a sks cat", ["a ", "{100}", " cat"]),
        ("sks2", ["", "{101, 102}"]),
        ("sks3 xsks sks_", ["sks3 xsks sks_"]),
        ("sks, sks-2", ["", "{100}", ", ", "{100}", "-2"]),
        ("SKS2", ["", "{101, 102}"]),
        ("x<a-b>y", ["x", "{103}", "y"]),
        ("a dark red cat", ["a ", "{104}", " cat"]),
        ("a dark reddish cat", ["a dark reddish cat"]),
        ("", [""]),
        ("a ſks cat", ["a ſks cat"]),
        ("ſks sks", ["ſks ", "{100}"]),
    ],
)
def test_the_longest_word_that_stands_alone_is_taken(tokenizer: MultiwordTokenizer, text: str, parts: list) -> None:
    assert segments(tokenizer, text) == parts


def test_older_images_had_words_inside_of_others(tokenizer: MultiwordTokenizer) -> None:
    assert segments(tokenizer, "sks3", whole=False) == ["", "{100}", "3"]


def test_its_ids_are_those_of_the_parts(tokenizer: MultiwordTokenizer, tiny_base: Base) -> None:
    plain = tiny_base.tokenizer
    inner = [
        *plain("a ", add_special_tokens=False).input_ids,
        101,
        102,
        *plain("b", add_special_tokens=False).input_ids,
    ]
    assert tokenizer("a sks2 b", add_special_tokens=False).input_ids == inner
    framed = [plain.bos_token_id, *inner, plain.eos_token_id]
    assert tokenizer("a sks2 b").input_ids == framed
    both = tokenizer(["a sks2 b", "c"], padding="max_length", max_length=8, truncation=True, return_tensors="pt")
    rest = [plain.pad_token_id] * (8 - len(framed))
    assert torch.equal(both.input_ids[0], torch.tensor(framed + rest))
    assert torch.equal(
        both.input_ids[1], plain("c", padding="max_length", max_length=8, return_tensors="pt").input_ids[0]
    )


def test_without_such_words_it_is_the_tokenizer_inside(tokenizer: MultiwordTokenizer, tiny_base: Base) -> None:
    text = ["a red cube", "b"]
    assert tokenizer(text, padding=True) == tiny_base.tokenizer(text, padding=True)
    assert len(tokenizer) == len(tiny_base.tokenizer)
    assert tokenizer.eos_token_id == tiny_base.tokenizer.eos_token_id


def test_it_can_be_copied(tokenizer: MultiwordTokenizer) -> None:
    copied = copy.deepcopy(tokenizer)
    assert copied("a sks cat") == tokenizer("a sks cat")
    copied.words["cat"] = [105]
    assert "cat" not in tokenizer.words


def test_letters_whose_lower_case_is_longer_are_plain_text(tiny_base: Base) -> None:
    """İ matches i where case is ignored, and its lower case is two characters."""
    tokenizer = MultiwordTokenizer(tiny_base.tokenizer, {"ink": [100]})
    assert segments(tokenizer, "İnk ink INK") == ["İnk ", "{100}", " ", "{100}"]
