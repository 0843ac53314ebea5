"""Prompts are cut into chunks between words."""

from __future__ import annotations

import pytest

from tether.base import Base
from tether.base.chunks import Chunk, cut
from tether.base.words import MultiwordTokenizer
from tether.errors import TetherError

ROOM = 22  # of the tiny base's 24 tokens; each letter is one token


def used(base: Base, chunk: Chunk) -> list[int]:
    """The tokens of the prompt in a chunk."""
    start, end = base.tokenizer.bos_token_id, base.tokenizer.eos_token_id
    assert len(chunk.ids) == len(chunk.weights) == ROOM + 2
    assert chunk.ids[0] == start
    assert chunk.ids[chunk.used - 1] == end
    assert set(chunk.ids[chunk.used :]) <= {base.tokenizer.pad_token_id}
    return chunk.ids[1 : chunk.used - 1]


def cut_prompt(base: Base, prompt: str, syntax="nested", tokenizer=None) -> list[Chunk]:
    return cut(tokenizer or base.tokenizer, 24, prompt, syntax)


def letters(base: Base, text: str) -> list[int]:
    return base.tokenizer(text, add_special_tokens=False).input_ids


def test_a_word_that_does_not_fit_begins_the_next_chunk(tiny_base: Base) -> None:
    first, second = cut_prompt(tiny_base, "abcdefghij abcdefghij xyz")
    assert used(tiny_base, first) == letters(tiny_base, "abcdefghij abcdefghij")
    assert used(tiny_base, second) == letters(tiny_base, "xyz")


def test_older_images_had_their_chunks_filled_to_the_last_token(tiny_base: Base) -> None:
    prompt = "abcdefghij abcdefghij xyz"
    first, second = cut_prompt(tiny_base, prompt, "simple")
    assert used(tiny_base, first) == letters(tiny_base, prompt)[:ROOM]
    assert used(tiny_base, second) == letters(tiny_base, prompt)[ROOM:]


def test_a_word_longer_than_the_window_is_cut(tiny_base: Base) -> None:
    word = "abcdefghij" * 5
    chunks = cut_prompt(tiny_base, f"x {word}")
    assert [token for chunk in chunks for token in used(tiny_base, chunk)] == letters(tiny_base, f"x {word}")
    assert len(chunks) == 4


def test_break_begins_a_chunk_and_makes_no_empty_one(tiny_base: Base) -> None:
    chunks = cut_prompt(tiny_base, "BREAK a (b BREAK BREAK c:1.5) BREAK")
    assert [used(tiny_base, chunk) for chunk in chunks] == [letters(tiny_base, text) for text in ("a b", "c")]
    assert [chunk.weights[1 : chunk.used - 1] for chunk in chunks] == [[1.0, 1.5], [1.5]]


def test_frame_and_padding_have_the_weight_one(tiny_base: Base) -> None:
    (chunk,) = cut_prompt(tiny_base, "(ab:1.5)")
    assert chunk.weights == [1.0, 1.5, 1.5, *[1.0] * 21]


def test_the_empty_prompt_is_one_chunk(tiny_base: Base) -> None:
    assert [used(tiny_base, chunk) for chunk in cut_prompt(tiny_base, "")] == [[]]


def test_an_embedding_of_several_tokens_is_kept_whole(tiny_base: Base) -> None:
    tokenizer = MultiwordTokenizer(tiny_base.tokenizer, {"<style>": [90, 91, 92, 93]})
    first, second = cut_prompt(tiny_base, "abcdefghij abcdefghij <style>", tokenizer=tokenizer)
    assert used(tiny_base, first) == letters(tiny_base, "abcdefghij abcdefghij")
    assert used(tiny_base, second) == [90, 91, 92, 93]
    (whole,) = cut_prompt(tiny_base, "a (<style>:1.3)", tokenizer=tokenizer)
    assert whole.weights[1:7] == [1.0, 1.3, 1.3, 1.3, 1.3, 1.0]


def test_more_than_16_chunks_are_refused(tiny_base: Base) -> None:
    words = " ".join(["abcdefghijkl"] * 17)  # one a chunk
    with pytest.raises(TetherError, match="17 chunks of at most 22; at most 16 chunks are supported: shorten it"):
        cut_prompt(tiny_base, words)
