"""Encoding of captions."""

from __future__ import annotations

import torch

from tether.base import Base
from tether.datasets.latents.encode import encode_captions


def test_a_caption_is_cut_where_the_tokenizer_says_no_length(tiny_base: Base) -> None:
    tiny_base.tokenizer.model_max_length = int(1e30)
    batch = encode_captions(tiny_base, ["a", " ".join(["abc"] * 40)], 1)
    assert batch["states"].shape[:2] == (2, 24)


def test_brackets_of_a_caption_are_letters_and_not_weights(tiny_base: Base) -> None:
    states = encode_captions(tiny_base, ["a (b)", r"a \(b\)", "a b"], 3)["states"]
    torch.testing.assert_close(states[0].float(), tiny_base.encode_prompts([r"a \(b\)"]).tokens[0], rtol=0, atol=2e-3)
    assert not torch.equal(states[0], states[2])


def test_states_do_not_depend_on_the_batch_size(tiny_base: Base) -> None:
    captions = ["a", "a b", "", "c d e"]
    one, three = (encode_captions(tiny_base, captions, size)["states"] for size in (1, 3))
    torch.testing.assert_close(one, three, rtol=2e-3, atol=2e-3)
    assert one.dtype == torch.float16
