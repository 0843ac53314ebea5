"""Prompts: weights, chunks, and equality with diffusers."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from tether.base import Base, TextEncoders
from tether.base.words import MultiwordTokenizer
from tether.errors import TetherError


def test_a_short_prompt_has_the_states_that_diffusers_gives(tiny_base: Base, tiny_folder: Path) -> None:
    reference = StableDiffusionPipeline.from_pretrained(tiny_folder)
    expected, empty = reference.encode_prompt("a red cube", "cpu", 1, True, "")
    ours = tiny_base.encode_prompts(["a red cube", ""]).tokens
    assert torch.allclose(ours[:1], expected, atol=1e-6)
    assert torch.allclose(ours[1:], empty, atol=1e-6)


def test_clip_skip_takes_an_earlier_layer_through_the_final_norm(tiny_base: Base) -> None:
    ids = tiny_base.tokenizer(["a red cube"], padding="max_length", max_length=24, return_tensors="pt").input_ids
    hidden = tiny_base.text_encoder(ids, output_hidden_states=True).hidden_states
    expected = tiny_base.text.parts[0].final_norm(hidden[-2])
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


def test_a_weight_moves_its_tokens_states_on_the_line_through_those_of_the_empty_prompt(tiny_base: Base) -> None:
    plain, empty = tiny_base.encode_prompts(["a b c", ""]).tokens
    for weight in (-1.0, 0.0, 0.5, 1.0, 1.4, 3.0):
        found = tiny_base.encode_prompts([f"a (b:{weight}) c"]).tokens[0]
        expected = plain.clone()
        expected[2] = empty[2] + weight * (plain[2] - empty[2])  # the start token is at 0
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        others = [k for k in range(24) if k != 2]
        assert torch.equal(found[others], plain[others])  # whatever the weight


def test_a_weight_of_one_changes_no_bit(tiny_base: Base) -> None:
    texts = ["a red cube", "a (red:1.0) cube", "a ([red]:1.1) cube"]
    plain, one, inverse = tiny_base.encode_prompts(texts).tokens
    assert torch.equal(one, plain)
    torch.testing.assert_close(inverse, plain, rtol=1e-5, atol=1e-6)


def test_the_simple_syntax_keeps_the_mean_as_older_versions_did(tiny_base: Base) -> None:
    text = copy.deepcopy(tiny_base.text)
    for part in text.parts:  # away from a mean of 0, where there is nothing to keep
        getattr(part.encoder, "text_model", part.encoder).final_layer_norm.bias.data += 0.5
    plain = text.encode(["a red cube"], syntax="simple").tokens
    heavier = text.encode(["a (red:1.4) cube"], syntax="simple").tokens
    ratio = heavier[0, 0] / plain[0, 0]  # the start token has the weight 1: what is left is the factor of the chunk
    assert heavier.mean().item() == pytest.approx(plain.mean().item(), abs=1e-5)
    assert ratio.std() < 1e-4
    assert abs(ratio.mean() - 1) > 1e-3


def test_weights_do_not_explode_where_the_mean_of_the_states_is_zero(two_encoders: TextEncoders) -> None:
    with torch.no_grad():
        plain = two_encoders.encode(["a b c"]).tokens
        for part, states in zip(two_encoders.parts, plain.split([32, 48], dim=-1), strict=True):
            inner = getattr(part.encoder, "text_model", part.encoder)
            inner.embeddings.position_embedding.weight -= states.mean()
        plain = two_encoders.encode(["a b c"]).tokens
        heavier = two_encoders.encode(["a (b:1.4) c"]).tokens
    assert torch.equal(heavier[0, 3:], plain[0, 3:])
    assert heavier.abs().max() < 2 * plain.abs().max()


def test_break_encodes_each_section_in_a_chunk_of_its_own(tiny_base: Base) -> None:
    joined = tiny_base.encode_prompts(["a b BREAK c"]).tokens
    first, second = tiny_base.encode_prompts(["a b", "c"]).tokens
    torch.testing.assert_close(joined[0], torch.cat([first, second]), rtol=1e-5, atol=1e-6)


def test_a_caption_is_encoded_to_the_letter(tiny_base: Base) -> None:
    caption = tiny_base.encode_prompts(["a (b:1.5)"], syntax="plain").tokens
    escaped = tiny_base.encode_prompts([r"a \(b:1.5\)"]).tokens
    assert torch.equal(caption, escaped)


def test_where_the_tokenizer_says_no_length_the_encoders_window_is_taken(tiny_base: Base) -> None:
    expected = tiny_base.encode_prompts(["a red cube"]).tokens
    silent = copy.deepcopy(tiny_base.tokenizer)
    silent.model_max_length = int(1e30)  # what transformers writes for a tokenizer without a limit
    base = dataclasses.replace(tiny_base, text=TextEncoders((silent, tiny_base.text_encoder)))
    assert torch.equal(base.encode_prompts(["a red cube"]).tokens, expected)


def test_a_prompt_without_end_is_refused(tiny_base: Base) -> None:
    with pytest.raises(TetherError, match="shorten"):
        tiny_base.encode_prompts(["a " * 1000])


@pytest.fixture
def two_encoders(tiny_base: Base) -> TextEncoders:
    """As SDXL's: the second is wider, and has a projection."""
    torch.manual_seed(1)
    config = tiny_base.text_encoder.config.to_dict() | {"hidden_size": 48, "projection_dim": 24}
    second = CLIPTextModelWithProjection(CLIPTextConfig(**config)).eval()
    return TextEncoders((tiny_base.tokenizer, tiny_base.text_encoder), (tiny_base.tokenizer, second))


def test_two_encoders_give_their_second_to_last_states_side_by_side_and_the_seconds_pooled(
    two_encoders: TextEncoders, tiny_base: Base
) -> None:
    ids = tiny_base.tokenizer(["a red cube"], padding="max_length", max_length=24, return_tensors="pt").input_ids
    first, second = (part.encoder(ids, output_hidden_states=True) for part in two_encoders.parts)
    found = two_encoders.encode(["a red cube"])
    expected = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    torch.testing.assert_close(found.tokens, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.pooled, second.text_embeds, rtol=1e-5, atol=1e-6)
    with pytest.raises(TetherError, match="clip_skip must be from 0 to 0"):
        two_encoders.encode(["a red cube"], clip_skip=1)


def test_encoders_that_split_a_prompt_into_different_numbers_of_chunks_fit_together(two_encoders: TextEncoders) -> None:
    tokenizer = two_encoders.parts[0].tokenizer
    two_encoders.parts[0].tokenizer = MultiwordTokenizer(tokenizer, {"cube": [3] * 44})
    found = two_encoders.encode(["a cube", ""])
    assert found.tokens.shape == (2, 3 * 24, 32 + 48)
    assert found.pooled is not None
    assert found.pooled.shape == (2, 24)


class Letters:
    """A tokenizer as T5's: no start, an end, zeros for padding."""

    model_max_length, bos_token_id, eos_token_id, pad_token_id = 12, None, 1, 0

    def __call__(self, text: str, **_: object) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[2 + ord(letter) % 32 for letter in text])


@pytest.fixture
def t5() -> TextEncoders:
    torch.manual_seed(2)
    config = T5Config(vocab_size=40, d_model=16, d_kv=4, d_ff=32, num_layers=3, num_heads=4)
    return TextEncoders((Letters(), T5EncoderModel(config).eval()))


@pytest.mark.parametrize("clip_skip", [0, 1])
def test_t5_sees_no_padding_and_gives_no_pooled_states(t5: TextEncoders, clip_skip: int) -> None:
    encoder = t5.parts[0].encoder
    alone = encoder(torch.tensor([[*Letters()("red").input_ids, 1]]), output_hidden_states=True).hidden_states
    expected = alone[-1] if clip_skip == 0 else encoder.encoder.final_layer_norm(alone[-1 - clip_skip])
    found = t5.encode(["red", "", "a red cube"], clip_skip)
    assert found.pooled is None
    assert found.tokens.shape == (3, 12, 16)
    torch.testing.assert_close(found.tokens[:1, :4], expected, rtol=1e-5, atol=1e-5)


def test_t5_takes_long_and_weighted_prompts(t5: TextEncoders) -> None:
    plain = t5.encode(["abcdefghijk" + "lmn", "x"]).tokens
    assert plain.shape == (2, 24, 16)  # 11 and 3 letters, each with the end
    weighted = t5.encode(["abcdefghijk" + "(lmn:1.5)", "x"]).tokens
    assert torch.equal(weighted[0, :12], plain[0, :12])
    assert not torch.allclose(weighted[0, 12:], plain[0, 12:], atol=1e-3)


def test_t5_without_a_limit_has_the_window_that_it_was_trained_on(t5: TextEncoders) -> None:
    t5.parts[0].tokenizer.model_max_length = int(1e30)
    assert t5.window == 512


def test_clip_and_t5_together_are_refused(t5: TextEncoders, tiny_base: Base) -> None:
    both = TextEncoders((tiny_base.tokenizer, tiny_base.text_encoder), (Letters(), t5.parts[0].encoder))
    with pytest.raises(TetherError, match="CLIP and T5 in one base are not supported yet"):
        both.encode(["x"])


def test_a_base_reads_and_replaces_its_encoders_by_their_old_names(two_encoders: TextEncoders, tiny_base: Base) -> None:
    assert tiny_base.text_encoder_2 is None
    assert tiny_base.tokenizer_2 is None
    base = dataclasses.replace(tiny_base, text=two_encoders)
    assert base.text_encoder_2 is two_encoders.parts[1].encoder
    other = copy.deepcopy(base.tokenizer)
    base.tokenizer_2 = other
    assert two_encoders.parts[1].tokenizer is other
    assert two_encoders.parts[0].tokenizer is not other
    assert base.modules() == [base.unet, base.vae, base.text_encoder, base.text_encoder_2]
