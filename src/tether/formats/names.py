"""The released layout of Stable Diffusion's files and that of diffusers: which tensor of one is which of the other.

Every tensor is in both, under two names; a few are kept in another form as well. `Pair` says both, and a list of pairs
translates either way without a number changing.

    kind          released                                diffusers
    same          any shape                               the same
    square        (out, in, 1, 1), a 1x1 convolution      (out, in), a linear layer
    thirds        (3 * out, ...), one above the other     three of (out, ...): queries, keys, values
    transposed    (in, out)                               (out, in)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Pair", "to_diffusers", "to_released"]


@dataclass(frozen=True)
class Pair:
    """One tensor of a released file and the one (three where `kind` is "thirds") that diffusers has for it."""

    released: str
    diffusers: tuple[str, ...]
    kind: Literal["same", "square", "thirds", "transposed"] = "same"


def to_diffusers(pairs: Iterable[Pair], released: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], set[str]]:
    """Released tensors under diffusers' names, as views, and the names of those that were used.

    Pairs whose tensor is not there are left out: whoever knows what should be there says what is missing.
    """
    found: dict[str, Tensor] = {}
    used = set()
    for pair in pairs:
        tensor = released.get(pair.released)
        if tensor is None:
            continue
        used.add(pair.released)
        if pair.kind == "square" and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
            tensor = tensor[:, :, 0, 0]
        elif pair.kind == "transposed":
            tensor = tensor.T
        parts = tensor.chunk(3) if pair.kind == "thirds" else (tensor,)
        found |= dict(zip(pair.diffusers, parts, strict=False))
    return found, used


def to_released(pairs: Iterable[Pair], diffusers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The other way round.

    Raises:
        KeyError: where a tensor is not there.
    """
    found = {}
    for pair in pairs:
        parts = [diffusers[name] for name in pair.diffusers]
        tensor = torch.cat(parts) if pair.kind == "thirds" else parts[0]
        if pair.kind == "square":
            tensor = tensor[:, :, None, None]
        elif pair.kind == "transposed":
            tensor = tensor.T
        found[pair.released] = tensor
    return found
