"""The original (LDM) layout of Stable Diffusion's files and that of diffusers: how the tensors of the two correspond.

Every tensor is in both layouts under different names, and a few have a different form. A `Pair` says which tensors
correspond and how; a list of pairs translates in both directions without changing a number.

    kind          original                                diffusers
    same          any shape                               the same
    square        (out, in, 1, 1), a 1x1 convolution      (out, in), a linear layer
    thirds        (3 * out, ...), concatenated            three of (out, ...): queries, keys, values
    transposed    (in, out)                               (out, in)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tether.errors import TetherError

__all__ = ["Pair", "to_diffusers", "to_original"]


@dataclass(frozen=True)
class Pair:
    """A tensor of the original layout, and the one (three if `kind` is "thirds") of the diffusers layout."""

    original: str
    diffusers: tuple[str, ...]
    kind: Literal["same", "square", "thirds", "transposed"] = "same"


def to_diffusers(pairs: Iterable[Pair], original: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], set[str]]:
    """Tensors of the original layout under diffusers' names, as views, and the original names of those translated.

    Pairs whose tensor is missing are skipped: the caller checks that the result is complete.
    """
    found: dict[str, Tensor] = {}
    used = set()
    for pair in pairs:
        tensor = original.get(pair.original)
        if tensor is None:
            continue
        used.add(pair.original)
        if pair.kind == "square" and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
            tensor = tensor[:, :, 0, 0]
        elif pair.kind == "transposed":
            tensor = tensor.T
        parts = tensor.chunk(3) if pair.kind == "thirds" else (tensor,)
        found |= dict(zip(pair.diffusers, parts, strict=False))
    return found, used


def to_original(pairs: Iterable[Pair], diffusers: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """The reverse of `to_diffusers`, without a tensor too few or too many.

    Args:
        pairs: as for `to_diffusers`.
        diffusers: the tensors of one network.
        what: its name in messages.

    Raises:
        TetherError: naming a tensor that no pair has, or a pair's that is missing.
    """
    pairs = list(pairs)
    names = {name for pair in pairs for name in pair.diffusers}
    if more := sorted(diffusers.keys() - names):
        raise TetherError(f"{what} has {more[0]}, which the original layout cannot store")
    if missing := sorted(names - diffusers.keys()):
        raise TetherError(f"{what} has no {missing[0]}, which the original layout needs")
    found = {}
    for pair in pairs:
        parts = [diffusers[name] for name in pair.diffusers]
        tensor = torch.cat(parts) if pair.kind == "thirds" else parts[0]
        if pair.kind == "square":
            tensor = tensor[:, :, None, None]
        elif pair.kind == "transposed":
            tensor = tensor.T
        found[pair.original] = tensor
    return found
