"""Encoded prompts, and the batch of both CFG branches."""

from __future__ import annotations

import pytest
import torch

from tether.control import Conditioning
from tether.errors import TetherError


def conditioning(seed: int = 0, pooled: bool = True, **extras: torch.Tensor) -> Conditioning:
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randn(2, 5, 4, generator=random)
    return Conditioning(tokens, torch.randn(2, 3, generator=random) if pooled else None, extras)


def test_guided_is_the_unconditional_batch_followed_by_the_conditional():
    a = conditioning(0, time_ids=torch.zeros(2, 6))
    b = conditioning(1, time_ids=torch.ones(2, 6))
    both = Conditioning.guided(a, b)
    assert len(both) == 4
    assert torch.equal(both.tokens, torch.cat([a.tokens, b.tokens]))
    assert torch.equal(both.pooled, torch.cat([a.pooled, b.pooled]))
    assert torch.equal(both.extras["time_ids"], torch.cat([torch.zeros(2, 6), torch.ones(2, 6)]))


def test_guidance_without_pooled_states_has_none():
    assert Conditioning.guided(conditioning(pooled=False), conditioning(pooled=False)).pooled is None


def test_branches_that_do_not_match_are_refused():
    with pytest.raises(TetherError, match="pooled states on both CFG branches"):
        Conditioning.guided(conditioning(), conditioning(pooled=False))
    with pytest.raises(TetherError, match="same extras on both CFG branches"):
        Conditioning.guided(conditioning(), conditioning(class_labels=torch.arange(2)))


def test_a_row_is_one_prompt_repeated_without_a_copy():
    both = conditioning(time_ids=torch.arange(12.0).reshape(2, 6))
    row = both.row(1, 3)
    assert len(row) == 3
    assert torch.equal(row.tokens, both.tokens[1:].repeat(3, 1, 1))
    assert torch.equal(row.pooled, both.pooled[1:].repeat(3, 1))
    assert torch.equal(row.extras["time_ids"], both.extras["time_ids"][1:].repeat(3, 1))
    assert row.tokens.data_ptr() == both.tokens[1:].data_ptr()


def test_zeros_keep_shape_and_extras():
    one = conditioning(class_labels=torch.arange(2))
    zeros = one.zeros()
    assert zeros.tokens.shape == one.tokens.shape
    assert not zeros.tokens.any()
    assert not zeros.pooled.any()
    assert torch.equal(zeros.extras["class_labels"], torch.arange(2))
    assert conditioning(pooled=False).zeros().pooled is None


def test_further_extras_are_added_and_the_first_conditioning_stays_as_it_was():
    one = conditioning(class_labels=torch.arange(2))
    more = one.with_extras(time_ids=torch.zeros(2, 6))
    assert set(more.extras) == {"class_labels", "time_ids"}
    assert set(one.extras) == {"class_labels"}


def test_a_cast_reaches_tokens_and_pooled_states_and_leaves_extras_in_their_dtype():
    cast = conditioning(class_labels=torch.arange(2)).to(dtype=torch.float64)
    assert (cast.tokens.dtype, cast.pooled.dtype) == (torch.float64, torch.float64)
    assert cast.extras["class_labels"].dtype == torch.int64
