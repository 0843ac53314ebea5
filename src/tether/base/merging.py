"""Token merging in self-attention (ToMe, arXiv:2210.09461; for Stable Diffusion, arXiv:2303.17604).

Self-attention over N positions costs N². Where the network attends first, at the finest resolution, neighbours say much
the same. In each square of 2 x 2 positions the first is a destination, the others are sources:

    s_i = max_j cos(x_i, x_j)             for each source i, over all destinations j
    the r = share * N sources with the largest s_i are merged into their j: x_j <- mean
    y = attention(merged x)
    y_i <- y_j                            for each merged source

Positions are chosen without chance, so that a picture can be repeated. Matching costs N² / 4 products of its own, so
this is for large N: 512 pixels and above.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tether.base.forwards import Forward, other_forwards

__all__ = ["Merged", "match", "tokens_merged"]


@dataclass(frozen=True)
class Merged:
    """Which positions are one; from `match`.

    Attributes:
        kept: `(B, N - r)`, the positions that stay, destinations last.
        source: `(B, r)`, the positions that are merged.
        into: `(B, r)`, the number among the destinations of each source's.
        destinations: how many there are.
    """

    kept: Tensor
    source: Tensor
    into: Tensor
    destinations: int

    def merge(self, x: Tensor) -> Tensor:
        """`(B, N, C)` -> `(B, N - r, C)`: the means of what is merged."""
        kept = _rows(x, self.kept)
        if self.source.shape[1] == 0:
            return kept
        # A product, not a scattered sum: on accelerators that would add in another order each time.
        members = F.one_hot(self.into, self.destinations).to(x.dtype).transpose(1, 2)
        total = members @ _rows(x, self.source) + kept[:, -self.destinations :]
        means = total / (members.sum(2, keepdim=True) + 1)
        return torch.cat([kept[:, : -self.destinations], means], dim=1)

    def unmerge(self, y: Tensor) -> Tensor:
        """`(B, N - r, C)` -> `(B, N, C)`: each position has what it was merged into."""
        batch, left, channels = y.shape
        out = y.new_empty(batch, left + self.source.shape[1], channels)
        out.scatter_(1, _expanded(self.kept, channels), y)
        return out.scatter_(1, _expanded(self.source, channels), _rows(y[:, -self.destinations :], self.into))


def match(x: Tensor, height: int, width: int, share: float) -> Merged:
    """Chooses what to merge.

    Args:
        x: `(B, N, C)` with N = height * width, row by row.
        height, width: both at least 2.
        share: of the positions, from 0 to 0.75.
    """
    first = np.zeros((height, width), bool)  # of NumPy: which positions these are does not depend on x
    first[: height // 2 * 2 : 2, : width // 2 * 2 : 2] = True
    destinations, sources = (torch.tensor(np.flatnonzero(one), device=x.device) for one in (first, ~first))
    directions = F.normalize(x.float(), dim=-1).to(x.dtype)
    likeness, nearest = (directions[:, sources] @ directions[:, destinations].transpose(1, 2)).max(-1)
    order = likeness.argsort(dim=-1, descending=True, stable=True)
    count = min(int(share * height * width), len(sources))
    merged, rest = order[:, :count], order[:, count:]
    kept = torch.cat([sources[rest], destinations.expand(len(x), -1)], dim=1)
    return Merged(kept, sources[merged], nearest.gather(1, merged), len(destinations))


def tokens_merged(networks: Iterable[Any], share: float, size: tuple[int, int]) -> AbstractContextManager[None]:
    """While it lasts, networks merge positions in the self-attentions of their finest resolution that has any.

    Args:
        networks: U-Nets and ControlNets of diffusers' blocks.
        share: of the positions, from 0, for none, to 0.75.
        size: height and width of the latents.
    """
    modules = [one for network in networks for one in _finest(network)] if share else []
    sides = {id(module): side for module, side in ((one, _sides(halved, size)) for one, halved in modules)}

    def make(forward: Forward) -> Forward:
        height, width = sides[id(forward.__self__)]  # type: ignore[attr-defined]

        def merged(hidden_states: Tensor, *others: Any, **named: Any) -> Tensor:
            given = [one for one in (*others, *named.values()) if isinstance(one, Tensor)]
            if given or min(height, width) < 2 or hidden_states.shape[1] != height * width:
                return forward(hidden_states, *others, **named)
            how = match(hidden_states, height, width, share)
            return how.unmerge(forward(how.merge(hidden_states), *others, **named))

        return merged

    return other_forwards([module for module, _ in modules], make)


def _finest(network: Any) -> Iterator[tuple[nn.Module, int]]:
    """Self-attentions at the finest resolution that has any, with the number of times that it is halved."""
    down: list[Any] = list(getattr(network, "down_blocks", ()))
    level = next((k for k, block in enumerate(down) if getattr(block, "attentions", None)), None)
    if level is None:
        return
    halved = sum(bool(block.downsamplers) for block in down[:level])
    up: list[Any] = list(getattr(network, "up_blocks", ()))
    for block in (down[level], *([up[-1 - level]] if up else [])):
        for attention in getattr(block, "attentions", None) or ():
            for layer in getattr(attention, "transformer_blocks", ()):
                if not layer.only_cross_attention:
                    yield layer.attn1, halved


def _sides(halved: int, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width after a number of convolutions of stride 2, which round up."""
    height, width = size
    for _ in range(halved):
        height, width = -(-height // 2), -(-width // 2)
    return height, width


def _rows(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, _expanded(index, x.shape[-1]))


def _expanded(index: Tensor, channels: int) -> Tensor:
    return index[..., None].expand(-1, -1, channels)
