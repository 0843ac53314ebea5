"""Encoding of captions."""

from __future__ import annotations

from tether.base import Base
from tether.datasets.latents.encode import encode_captions


def test_a_caption_is_cut_where_the_tokenizer_says_no_length(tiny_base: Base) -> None:
    tiny_base.tokenizer.model_max_length = int(1e30)
    batch = encode_captions(tiny_base, ["a", " ".join(["abc"] * 40)], 1)
    assert batch["states"].shape[:2] == (2, 24)
