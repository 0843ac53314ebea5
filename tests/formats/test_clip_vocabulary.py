"""The vocabulary that ships is the published one, and the tokenizer made of it is CLIP's."""

from __future__ import annotations

import hashlib

import pytest

from tether.formats import clip_vocabulary
from tether.formats.clip_vocabulary import clip_tokenizer

PUBLISHED = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
"""SHA-256 of bpe_simple_vocab_16e6.txt.gz, as OpenCLIP records it."""


def test_the_file_is_the_published_one_and_carries_its_licence() -> None:
    data = clip_vocabulary.FILE.read_bytes()
    assert hashlib.sha256(data).hexdigest() == PUBLISHED
    assert len(data) <= 1_400_000
    assert "OpenAI" in (clip_vocabulary.FILE.parent / "LICENSE.txt").read_text()


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        # What the tokenizer published with CLIP gives.
        ("a photo of a cat", [49406, 320, 1125, 539, 320, 2368, 49407]),
        ("a photo of a dog", [49406, 320, 1125, 539, 320, 1929, 49407]),
        ("", [49406, 49407]),
    ],
)
def test_prompts_become_clips_tokens(text: str, ids: list[int]) -> None:
    assert clip_tokenizer()(text).input_ids == ids


def test_padding_is_the_end_mark_for_clip_and_entry_zero_for_open_clip() -> None:
    assert clip_tokenizer().pad_token_id == 49407
    assert clip_tokenizer("!").pad_token_id == 0
    assert clip_tokenizer("!").model_max_length == 77
    assert len(clip_tokenizer()) == 49408
