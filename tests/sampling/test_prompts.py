"""Prompts of a request as guidance."""

from __future__ import annotations

import pytest
import torch

from tether.base import Base
from tether.errors import TetherError
from tether.sampling import Request
from tether.sampling.prompts import guidance_of

from ..tiny import make_unet


def test_both_prompts_are_encoded_for_every_image(tiny_base: Base) -> None:
    request = Request(prompt="a cube", negative_prompt="dark", count=3, guidance_scale=2.0)
    guidance = guidance_of(request, tiny_base, (64, 64))
    expected = tiny_base.encode_prompts(["dark", "a cube"])
    assert guidance.unconditional is not None
    assert (len(guidance.conditional), len(guidance.unconditional), guidance.scale) == (3, 3, 2.0)
    for k in range(3):
        assert torch.equal(guidance.unconditional.tokens[k], expected.tokens[0])
        assert torch.equal(guidance.conditional.tokens[k], expected.tokens[1])


def test_a_scale_of_one_is_no_guidance_and_any_other_is_honored(tiny_base: Base) -> None:
    assert guidance_of(Request(prompt="x", guidance_scale=1.0), tiny_base, (64, 64)).unconditional is None
    for scale in (0.0, 0.5, 0.99, 1.01, -2.0):
        guidance = guidance_of(Request(prompt="x", guidance_scale=scale), tiny_base, (64, 64))
        assert guidance.unconditional is not None
        assert guidance.scale == scale


@pytest.mark.parametrize("scale", [1.0, 0.5, -2.0])
def test_by_the_first_rules_a_scale_of_one_or_less_was_no_guidance(tiny_base: Base, scale: float) -> None:
    request = Request(prompt="x", guidance_scale=scale, rules=1)
    assert guidance_of(request, tiny_base, (64, 64)).unconditional is None


@pytest.mark.parametrize(("negative", "zero"), [("", True), ("dark", False)])
def test_an_empty_negative_prompt_is_zeros_for_bases_trained_so(tiny_base: Base, negative: str, zero: bool) -> None:
    tiny_base.zero_empty_negative = True
    guidance = guidance_of(Request(prompt="x", negative_prompt=negative), tiny_base, (64, 64))
    assert guidance.unconditional is not None
    assert bool(guidance.unconditional.tokens.any()) != zero


def test_a_base_that_needs_pooled_text_and_gets_none_is_refused(tiny_base: Base) -> None:
    tiny_base.unet = make_unet("sdxl")
    with pytest.raises(TetherError, match="needs pooled text states"):
        guidance_of(Request(prompt="x"), tiny_base, (64, 64))


def test_clip_skip_that_leaves_no_layer_is_refused(tiny_base: Base) -> None:
    with pytest.raises(TetherError, match="clip_skip"):
        guidance_of(Request(prompt="x", clip_skip=2), tiny_base, (64, 64))


def test_prompts_are_read_by_the_syntax_of_the_requests_rules(tiny_base: Base) -> None:
    prompt = "a ((red:1.2) cube)"
    for rules, syntax in ((1, "simple"), (2, "nested")):
        request = Request(prompt=prompt, guidance_scale=1.0, rules=rules)
        found = guidance_of(request, tiny_base, (64, 64)).conditional.tokens
        assert torch.equal(found, tiny_base.encode_prompts([prompt], syntax=syntax).tokens)
