"""What networks compute of the text alone, computed once a run: the keys and values of every cross-attention.

    K = c_t W_K,  V = c_t W_V            the same at every step, as c_t is
    e = E(c_t)                           and the embedding of the pooled text, where a network makes it of the tokens

The results are the same tensors at every step, so that pictures are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from tether.base.forwards import Forward, other_forwards

__all__ = ["text_once"]


def text_once(networks: Iterable[nn.Module]) -> AbstractContextManager[None]:
    """While it lasts, denoisers and controls keep what they made of the text that they were last given.

    Kept are 2 C numbers a token for each cross-attention of width C, 8 MB for both sides of guidance in Stable
    Diffusion 1.5. A text that is another tensor, with the same numbers or not, is computed anew.

    Args:
        networks: U-Nets and controls of diffusers' layers, whose weights do not change meanwhile.
    """
    return other_forwards((module for network in networks for module in _of_text(network)), _once)


def _of_text(network: Any) -> Iterator[nn.Module]:
    """The modules whose input is the text alone."""
    for module in network.modules():
        if isinstance(module, Attention) and module.is_cross_attention and not module.norm_cross:
            yield from (one for one in (module.to_k, module.to_v) if one is not None)
    if getattr(network, "config", {}).get("addition_embed_type") == "text":
        yield network.add_embedding


def _once(forward: Forward) -> Forward:
    """A function that keeps its last argument, which is compared by identity, and its result."""
    last: tuple[Tensor, Any] | None = None

    def once(text: Tensor, *others: Any) -> Any:
        nonlocal last
        kept = last
        if others or kept is None or kept[0] is not text:
            kept = text, forward(text, *others)
            last = None if others else kept
        return kept[1]

    return once
