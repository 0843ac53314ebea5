"""The text encoders' tensors: every name has its pair, and the settings follow from the shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from tether.errors import TetherError
from tether.files.checkpoints import open_checkpoint
from tether.formats.names import to_diffusers
from tether.formats.text import clip_pairs, open_clip_layers, open_clip_pairs, text_config, text_names
from tether.weights import shipped

from ..reference.layouts import clip, open_clip


def empty(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_the_settings_are_those_of_the_published_encoders() -> None:
    config = text_config(empty(clip()), "quick_gelu")
    # The text part of openai/clip-vit-large-patch14's config.json.
    expected = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
    expected |= {"max_position_embeddings": 77, "vocab_size": 49408, "hidden_act": "quick_gelu", "projection_dim": 768}
    assert {name: config[name] for name in expected} == expected


def test_open_clip_becomes_a_whole_clip_with_projection() -> None:
    original = empty(open_clip(128, 3, 64))
    assert open_clip_layers(original, "") == 3
    tensors, used = to_diffusers(open_clip_pairs(3, projection=True), original)
    assert original.keys() - used == {"logit_scale"}
    with torch.device("meta"):
        network = CLIPTextModelWithProjection(CLIPTextConfig(**text_config(tensors, "gelu")))
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert {name: tensor.shape for name, tensor in tensors.items()} == expected


def test_a_prefix_that_old_files_omit_is_added() -> None:
    [pair] = clip_pairs(["text_model.final_layer_norm.weight"], bare=True)
    assert (pair.original, pair.diffusers) == ("final_layer_norm.weight", ("text_model.final_layer_norm.weight",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_model.embeddings.token_embedding.weight": None}, r"does not match Stable Diffusion 1\.x, 2\.x or XL"),
        ({"text_model.embeddings.token_embedding.weight": (300, 64)}, "has 300 tokens: expected CLIP's 49,408"),
    ],
)
def test_other_text_encoders_are_refused(change: dict[str, Any], message: str) -> None:
    shapes = {name: shape for name, shape in (clip(64, 1) | change).items() if shape is not None}
    with pytest.raises(TetherError, match=message):
        text_config(empty(shapes), "quick_gelu")


def test_text_encoders_get_the_names_that_all_versions_of_transformers_read() -> None:
    flat = ["embeddings.token_embedding.weight", "encoder.layers.0.mlp.fc1.bias", "final_layer_norm.weight"]
    long = [f"text_model.{name}" for name in flat]
    rest = ["text_projection.weight", "embeddings.position_ids", "vision_model.x", "logit_scale"]
    tensors = {name: torch.zeros(1) for name in [*flat, *rest]}
    assert list(text_names(tensors)) == [*long, "text_projection.weight"]
    assert list(text_names({name: torch.zeros(1) for name in long})) == long


def test_the_shipped_text_encoder_has_those_names() -> None:
    tensors = open_checkpoint(shipped("base") / "text_encoder" / "model.safetensors").tensors
    assert text_names(tensors).keys() == tensors.keys()
