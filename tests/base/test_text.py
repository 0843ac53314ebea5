"""Prompts: weights, chunks, and equality with diffusers."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from tether.base import Base
from tether.base.text import parse_weights
from tether.errors import TetherError


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("", [("", 1.0)]),
        ("a (red:1.3) cat", [("a ", 1.0), ("red", 1.3), (" cat", 1.0)]),
        ("(a:0.5)(b:2)", [("a", 0.5), ("b", 2.0)]),
        (r"a \(red:1.3\) cat", [("a (red:1.3) cat", 1.0)]),
        ("a (red) cat: yes", [("a (red) cat: yes", 1.0)]),
    ],
)
def test_only_bracketed_numbers_weigh_words(prompt: str, pieces: list) -> None:
    assert parse_weights(prompt) == pieces


def test_a_short_prompt_has_the_states_that_diffusers_gives(tiny_base: Base, tiny_folder: Path) -> None:
    reference = StableDiffusionPipeline.from_pretrained(tiny_folder)
    expected, empty = reference.encode_prompt("a red cube", "cpu", 1, True, "")
    ours = tiny_base.encode_prompts(["a red cube", ""]).tokens
    assert torch.allclose(ours[:1], expected, atol=1e-6)
    assert torch.allclose(ours[1:], empty, atol=1e-6)


def test_clip_skip_takes_an_earlier_layer_through_the_final_norm(tiny_base: Base) -> None:
    ids = tiny_base.tokenizer(["a red cube"], padding="max_length", max_length=24, return_tensors="pt").input_ids
    hidden = tiny_base.text_encoder(ids, output_hidden_states=True).hidden_states
    expected = tiny_base.text_encoder.final_layer_norm(hidden[-2])
    assert torch.allclose(tiny_base.encode_prompts(["a red cube"], clip_skip=1).tokens, expected, atol=1e-6)


@pytest.mark.parametrize("layers", [-1, 2])
def test_no_more_layers_are_left_out_than_there_are(tiny_base: Base, layers: int) -> None:
    assert tiny_base.encode_prompts(["x"], clip_skip=1).tokens.isfinite().all()
    with pytest.raises(TetherError, match="clip_skip must be from 0 to 1"):
        tiny_base.encode_prompts(["x"], clip_skip=layers)


def test_a_long_prompt_is_cut_into_chunks_and_loses_no_word(tiny_base: Base) -> None:
    words = " ".join(["abc"] * 15)  # 45 tokens, 22 a chunk
    states = tiny_base.encode_prompts([words, ""]).tokens
    assert states.shape[:2] == (2, 3 * 24)
    changed = tiny_base.encode_prompts([words[:-1] + "d", ""]).tokens
    assert torch.equal(states[0, :48], changed[0, :48])
    assert not torch.allclose(states[0, 48:], changed[0, 48:])


def test_a_weight_of_one_changes_nothing_and_another_keeps_the_mean(tiny_base: Base) -> None:
    plain = tiny_base.encode_prompts(["a red cube"]).tokens
    assert torch.allclose(tiny_base.encode_prompts(["a (red:1.0) cube"]).tokens, plain, atol=1e-6)
    heavier = tiny_base.encode_prompts(["a (red:1.4) cube"]).tokens
    assert not torch.allclose(heavier, plain, atol=1e-3)
    assert heavier.mean().item() == pytest.approx(plain.mean().item(), abs=1e-5)


def test_where_the_tokenizer_says_no_length_the_encoders_window_is_taken(tiny_base: Base) -> None:
    expected = tiny_base.encode_prompts(["a red cube"]).tokens
    silent = copy.deepcopy(tiny_base.tokenizer)
    silent.model_max_length = int(1e30)  # what transformers takes for "not said"
    base = dataclasses.replace(tiny_base, tokenizer=silent)
    assert torch.equal(base.encode_prompts(["a red cube"]).tokens, expected)


def test_a_prompt_without_end_is_refused(tiny_base: Base) -> None:
    with pytest.raises(TetherError, match="shorten"):
        tiny_base.encode_prompts(["a " * 1000])
