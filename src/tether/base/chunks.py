"""Cuts a prompt into chunks that fit the window of a text encoder.

A window of W tokens holds a start token, W - 2 of the prompt, and an end token (75 of CLIP's 77). A chunk ends before
the word that would not fit, so no word and no embedding of several tokens is cut in two, and is padded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tether.base.prompt_syntax import PromptSyntax, parse_prompt
from tether.base.words import MultiwordTokenizer
from tether.errors import TetherError

__all__ = ["Chunk", "cut"]

MAX_CHUNKS = 16


@dataclass(frozen=True)
class Chunk:
    """A part of a prompt that fills the window of a text encoder.

    Attributes:
        ids: token ids, framed and padded, as many as the window has.
        weights: the weight of each.
        used: how many come before the padding.
    """

    ids: list[int]
    weights: list[float]
    used: int


@dataclass(frozen=True)
class _Unit:
    """Tokens that stay together, and their weight."""

    ids: list[int]
    weight: float


def cut(tokenizer: Any, window: int, prompt: str, syntax: PromptSyntax) -> list[Chunk]:
    """The chunks of a prompt, one at least.

    Args:
        tokenizer: a tokenizer of transformers, or a `MultiwordTokenizer`.
        window: tokens of a chunk.
        prompt: the prompt.
        syntax: how it is read. Chunks of the "simple" one are filled to the last token, also within a word.

    Raises:
        TetherError: if there are more than 16 chunks, and as `parse_prompt`.
    """
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    room = window - len(start) - 1
    filled: list[list[tuple[int, float]]] = []
    for section in parse_prompt(prompt, syntax):
        units = [
            _Unit(ids, piece.weight)
            for piece in section
            for ids in _unit_ids(tokenizer, piece.text, whole_words=syntax != "simple")
        ]
        filled += _filled(units, room)
    if len(filled) > MAX_CHUNKS:
        raise TetherError(
            f"the prompt has {sum(map(len, filled)):,} tokens in {len(filled):,} chunks of at most {room}; "
            f"at most {MAX_CHUNKS} chunks are supported: shorten it"
        )
    chunks = []
    for tokens in filled or [[]]:
        padding = room - len(tokens)
        ids, weights = [one for one, _ in tokens], [weight for _, weight in tokens]
        chunks.append(
            Chunk(
                [*start, *ids, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * padding],
                [*[1.0] * len(start), *weights, 1.0, *[1.0] * padding],
                window - padding,
            )
        )
    return chunks


def _filled(units: list[_Unit], room: int) -> list[list[tuple[int, float]]]:
    """The units in as few chunks as hold them in order; one of more than `room` tokens is cut."""
    chunks: list[list[tuple[int, float]]] = []
    for unit in units:
        for first in range(0, len(unit.ids), room):
            tokens = [(one, unit.weight) for one in unit.ids[first : first + room]]
            if not chunks or len(chunks[-1]) + len(tokens) > room:
                chunks.append([])
            chunks[-1] += tokens
    return chunks


def _unit_ids(tokenizer: Any, text: str, whole_words: bool) -> Iterator[list[int]]:
    """The token ids of a text, those of a word together; each alone unless `whole_words`."""
    if isinstance(tokenizer, MultiwordTokenizer):
        for part, own in tokenizer.segments(text, whole_words):
            if own is not None:
                yield from [own] if whole_words else [[one] for one in own]
            elif part:
                yield from _unit_ids(tokenizer.tokenizer, part, whole_words)
        return
    offsets = {"return_offsets_mapping": True} if whole_words and getattr(tokenizer, "is_fast", False) else {}
    encoded = tokenizer(text, add_special_tokens=False, verbose=False, **offsets)
    if not offsets:
        yield from ([one] for one in encoded.input_ids)
        return
    word: list[int] = []
    end = 0
    for one, (first, last) in zip(encoded.input_ids, encoded.offset_mapping, strict=True):
        # CLIP's tokens leave out the spaces between words, T5's begin with them.
        if word and (first > end or text[first : first + 1].isspace()):
            yield word
            word = []
        word.append(one)
        end = last
    if word:
        yield word
