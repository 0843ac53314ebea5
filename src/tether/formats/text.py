"""The text encoders' tensors in the original layout (CLIP as transformers names it, or OpenCLIP) and in transformers.

    original, CLIP (SD 1.x, SDXL's first)      as in transformers, under a prefix
    original, OpenCLIP (SD 2.x, SDXL's second) transformers
    token_embedding.weight                     text_model.embeddings.token_embedding.weight
    positional_embedding                       text_model.embeddings.position_embedding.weight
    transformer.resblocks.N.ln_1, .ln_2        text_model.encoder.layers.N.layer_norm1, .layer_norm2
    transformer.resblocks.N.attn.in_proj_*     text_model.encoder.layers.N.self_attn.{q,k,v}_proj.*, concatenated
    transformer.resblocks.N.attn.out_proj      text_model.encoder.layers.N.self_attn.out_proj
    transformer.resblocks.N.mlp.c_fc, .c_proj  text_model.encoder.layers.N.mlp.fc1, .fc2
    ln_final                                   text_model.final_layer_norm
    text_projection (in, out)                  text_projection.weight (out, in)

SD 2.x uses the states before the last layer: its files have 24 layers, of which it uses 23, and no projection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any

from torch import Tensor

from tether.errors import TetherError
from tether.formats.names import Pair

__all__ = ["clip_pairs", "open_clip_layers", "open_clip_pairs", "text_config", "text_names"]

TOKENS = 49408
"""Size of CLIP's vocabulary, which all text encoders of Stable Diffusion have."""

VISION = re.compile(r"vision_model\.|visual_projection\.|logit_scale$")
"""Tensors of a whole CLIP that its text half does not have."""

LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
WHOLE = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}


def text_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a CLIP text encoder under their usual names, whichever version of transformers wrote them.

    transformers 5.6 and later leave out "text_model."; all versions read the names with it. `position_ids` and what a
    whole CLIP has beside its text half are left out.
    """
    found = {}
    for name, tensor in tensors.items():
        if name.endswith("position_ids") or VISION.match(name):
            continue
        plain = name.startswith(("text_model.", "text_projection."))
        found[name if plain else f"text_model.{name}"] = tensor
    return found


def clip_pairs(names: Iterable[str], bare: bool = False) -> list[Pair]:
    """The pairs for CLIP, whose names are the same; `bare` if the file omits "text_model."."""
    return [Pair(name.removeprefix("text_model.") if bare else name, (name,)) for name in names]


def open_clip_pairs(layers: int, projection: bool) -> list[Pair]:
    """The pairs for OpenCLIP with that many layers, with or without the projection."""
    pairs = [Pair(original, (name,)) for name, original in WHOLE.items()]
    for n in range(layers):
        ours, theirs = f"text_model.encoder.layers.{n}.", f"transformer.resblocks.{n}."
        for parameter in ("weight", "bias"):
            pairs += [Pair(f"{theirs}{b}.{parameter}", (f"{ours}{a}.{parameter}",)) for a, b in LAYER.items()]
            thirds = tuple(f"{ours}self_attn.{part}_proj.{parameter}" for part in "qkv")
            pairs.append(Pair(f"{theirs}attn.in_proj_{parameter}", thirds, "thirds"))
    if projection:
        pairs.append(Pair("text_projection", ("text_projection.weight",), "transposed"))
    return pairs


def open_clip_layers(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """The number of layers of the OpenCLIP encoder below `prefix`."""
    return next(n for n in count() if f"{prefix}transformer.resblocks.{n}.ln_1.weight" not in tensors)


def text_config(tensors: Mapping[str, Tensor], activation: str) -> dict[str, Any]:
    """Settings of transformers' CLIP for tensors under its names.

    Raises:
        TetherError: if they are not a text encoder of Stable Diffusion.
    """
    words = tensors.get("text_model.embeddings.token_embedding.weight")
    places = tensors.get("text_model.embeddings.position_embedding.weight")
    inner = tensors.get("text_model.encoder.layers.0.mlp.fc1.weight")
    if words is None or places is None or inner is None:
        raise TetherError("its text encoder does not match Stable Diffusion 1.x, 2.x or XL")
    if len(words) != TOKENS:
        raise TetherError(f"its text encoder has {len(words):,} tokens: expected CLIP's {TOKENS:,}")
    layers = next(n for n in count() if f"text_model.encoder.layers.{n}.layer_norm1.weight" not in tensors)
    projection = tensors.get("text_projection.weight")
    width = words.shape[1]
    return {
        "architectures": ["CLIPTextModel" if projection is None else "CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        "vocab_size": TOKENS,
        "hidden_size": width,
        "intermediate_size": inner.shape[0],
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 64),
        "max_position_embeddings": len(places),
        "hidden_act": activation,
        "projection_dim": width if projection is None else len(projection),
        "layer_norm_eps": 1e-5,
        "bos_token_id": TOKENS - 2,
        "eos_token_id": TOKENS - 1,
        "pad_token_id": TOKENS - 1 if activation == "quick_gelu" else 0,
    }
