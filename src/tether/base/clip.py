"""CLIP's text encoder in PyTorch alone (arXiv:2103.00020), so that drawing need not wait for transformers.

    h_0 = token + position,  h_l = h + MLP(norm2(h)),  h = h_{l-1} + attention(norm1(h_{l-1})),  z = norm(h_L)

Attention is causal. Parameter names, arithmetic and outputs are those of transformers' `CLIPTextModel` and
`CLIPTextModelWithProjection`; tests hold them to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

__all__ = ["ClipConfig", "ClipText", "ClipTextWithProjection", "own_clip"]

OLD_END = 2
"""The end token that configs written before transformers 4.31 give wrongly; the end is the greatest id there."""


@dataclass(frozen=True)
class ClipConfig:
    """The settings of a CLIP text encoder, under transformers' names and with its defaults."""

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    eos_token_id: int = 49407
    model_type: str = "clip_text_model"


class ClipStates(NamedTuple):
    """What a text encoder gives.

    Attributes:
        last_hidden_state: `(B, T, D)`, normalized.
        pooler_output: the state at the end token, `(B, D)`.
        hidden_states: those before the first layer and after each, not normalized, where they were asked for.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


class ProjectedStates(NamedTuple):
    """What a text encoder with a projection gives; text_embeds is the projected state at the end token, `(B, P)`."""

    text_embeds: Tensor
    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


class _QuickGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


_ACTIVATIONS = {"quick_gelu": _QuickGelu, "gelu": nn.GELU}


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).view(*x.shape[:-1], self.heads, -1).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True, scale=q.shape[-1] ** -0.5)
        return self.out_proj(mixed.transpose(1, 2).reshape(x.shape))


class _Mlp(nn.Module):
    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.activation_fn = _ACTIVATIONS[config.hidden_act]()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation_fn(self.fc1(x)))


class _Layer(nn.Module):
    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        width, epsilon = config.hidden_size, config.layer_norm_eps
        self.self_attn = _Attention(width, config.num_attention_heads)
        self.layer_norm1 = nn.LayerNorm(width, eps=epsilon)
        self.mlp = _Mlp(config)
        self.layer_norm2 = nn.LayerNorm(width, eps=epsilon)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class _Embeddings(nn.Module):
    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:
        return self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[-1]]


class _Encoder(nn.Module):
    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))


class _Clip(nn.Module):
    """What the encoders with and without a projection share with transformers' models."""

    config: ClipConfig

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def _embeddings(self) -> _Embeddings:
        raise NotImplementedError

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of token embeddings `(V, D)`."""
        return self._embeddings.token_embedding

    def resize_token_embeddings(self, count: int, mean_resizing: bool = False) -> nn.Embedding:
        """A new table of `count` rows: those there are, and then rows of zeros; `mean_resizing` is ignored."""
        old = self.get_input_embeddings().weight
        table = nn.Embedding(count, old.shape[1], device=old.device, dtype=old.dtype)
        with torch.no_grad():
            table.weight.zero_()[: len(old)] = old[:count]
        self._embeddings.token_embedding = table
        return table


class ClipText(_Clip):
    """CLIP's text encoder.

    Args:
        config: its settings.
    """

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    @property
    def _embeddings(self) -> _Embeddings:
        return self.embeddings

    def forward(self, input_ids: Tensor, output_hidden_states: bool = False) -> ClipStates:
        """Token ids `(B, T)` -> states."""
        x = self.embeddings(input_ids)
        hidden = [x]
        for layer in self.encoder.layers:
            x = layer(x)
            hidden.append(x)
        last = self.final_layer_norm(x)
        end = self.config.eos_token_id
        place = (input_ids if end == OLD_END else (input_ids == end)).int().argmax(dim=-1)
        pooled = last[torch.arange(len(last), device=last.device), place]
        return ClipStates(last, pooled, tuple(hidden) if output_hidden_states else None)


class ClipTextWithProjection(_Clip):
    """CLIP's text encoder and the projection of its pooled state.

    Args:
        config: its settings.
    """

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = ClipText(config)
        self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)

    @property
    def _embeddings(self) -> _Embeddings:
        return self.text_model.embeddings

    def forward(self, input_ids: Tensor, output_hidden_states: bool = False) -> ProjectedStates:
        """Token ids `(B, T)` -> states."""
        states = cast(ClipStates, self.text_model(input_ids, output_hidden_states))
        return ProjectedStates(
            self.text_projection(states.pooler_output), states.last_hidden_state, states.hidden_states
        )


def own_clip(config: Mapping[str, Any]) -> ClipText | ClipTextWithProjection | None:
    """The encoder that a `config.json` of transformers describes; None for one that this module does not know."""
    kind = (config.get("architectures") or [""])[0]
    known = {field.name: field.default for field in fields(ClipConfig)}
    given = {name: config[name] for name in known if name in config}
    whole = [name for name, default in known.items() if isinstance(default, int)]
    if kind not in ("CLIPTextModel", "CLIPTextModelWithProjection") or config.get("model_type") != "clip_text_model":
        return None
    settings = ClipConfig(**given)
    if any(type(getattr(settings, name)) is not int or getattr(settings, name) < 0 for name in whole):
        return None
    if settings.hidden_act not in _ACTIVATIONS or type(settings.layer_norm_eps) is not float:
        return None
    if not settings.num_attention_heads or settings.hidden_size % settings.num_attention_heads:
        return None
    return (ClipTextWithProjection if kind.endswith("Projection") else ClipText)(settings)
