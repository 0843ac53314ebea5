"""Tether's own CLIP text encoder against transformers' models, to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tether.base.clip import own_clip

SETTINGS: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 24,
    "projection_dim": 10,
}


def make_pair(projection: bool = False, **changes: Any) -> tuple[Any, Any]:
    """transformers' model and Tether's, with the same random weights."""
    cls = CLIPTextModelWithProjection if projection else CLIPTextModel
    config = CLIPTextConfig(**(SETTINGS | changes), architectures=[cls.__name__])
    torch.manual_seed(0)
    theirs, ours = cls(config).eval(), own_clip(config.to_dict())
    assert ours is not None
    # Before transformers 5.6 the model without a projection has its weights one level down.
    depth = "" if projection else "text_model."
    ours.load_state_dict({name.removeprefix(depth): tensor for name, tensor in theirs.state_dict().items()})
    return theirs, ours.eval()


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("changes", [{"hidden_act": "gelu", "eos_token_id": 60}, {"eos_token_id": 2}])
@torch.no_grad()
def test_every_state_is_that_of_transformers(projection: bool, dtype: torch.dtype, changes: dict[str, Any]) -> None:
    theirs, ours = (model.to(dtype) for model in make_pair(projection, **changes))
    ids = torch.randint(0, 64, (3, 24), generator=torch.Generator().manual_seed(1))
    expected, found = theirs(ids, output_hidden_states=True), ours(ids, output_hidden_states=True)
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
    assert len(found.hidden_states) == len(expected.hidden_states) == 4
    assert all(map(torch.equal, found.hidden_states, expected.hidden_states))
    name = "text_embeds" if projection else "pooler_output"
    assert torch.equal(getattr(found, name), getattr(expected, name))
    assert torch.equal(ours(ids[:, :9]).last_hidden_state, theirs(ids[:, :9]).last_hidden_state)
    assert ours(ids).hidden_states is None


@torch.no_grad()
def test_rows_are_added_to_the_table_and_the_others_stay() -> None:
    _, ours = make_pair()
    ids = torch.tensor([[1, 2, 3]])
    before, old = ours(ids).last_hidden_state, ours.get_input_embeddings().weight.clone()
    ours.resize_token_embeddings(66, mean_resizing=False)
    table = ours.get_input_embeddings().weight
    assert table.shape == (66, 32)
    assert torch.equal(table[:64], old)
    assert torch.equal(ours(ids).last_hidden_state, before)
    table[64] = 1.0
    assert ours(torch.tensor([[1, 64, 3]])).last_hidden_state.isfinite().all()


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["CLIPModel"]},
        {"architectures": ["T5EncoderModel"], "model_type": "t5"},
        {"hidden_act": "relu"},
        {"num_attention_heads": 5},
        {"hidden_size": -32},
        {"hidden_size": "32"},
        {"num_attention_heads": 0},
    ],
)
def test_what_it_does_not_know_is_left_to_transformers(changes: dict[str, Any]) -> None:
    config = CLIPTextConfig(**SETTINGS, architectures=["CLIPTextModel"]).to_dict()
    assert own_clip(config | changes) is None
