"""What one layer of a LoRA adds to a weight W `(out, in)` or `(out, in, kh, kw)`, in float32.

    LoRA (arXiv:2106.09685)    dW = s B A, s = alpha / rank; without an alpha, s = 1
        for convolutions       A `(rank, in, kh, kw)`, B `(out, rank, 1, 1)`; with a middle M `(rank, rank, kh, kw)`,
                               dW[o, i] = s sum_ab B[o, a] M[a, b] A[b, i]
        rank-stabilized        s = alpha / sqrt(rank) (arXiv:2312.03732)
    LoHa (arXiv:2108.06098)    dW = s (B1 A1) * (B2 A2), elementwise
    LoKr                       dW = s kron(W1, W2); each may be a product; if neither is, s = 1
    full difference            dW as it is, and that of the bias
    DoRA (arXiv:2402.09353)    W' = m (W + dW) / |W + dW|, norms along every axis but the output's

A strength k gives W + k dW; for DoRA W + k (W' - W), as ComfyUI and AUTOMATIC1111 have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tether.errors import TetherError

__all__ = ["Layer"]

COMPLETE = (
    {"down", "up"},
    {"down", "up", "mid"},
    {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},
    {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"},
    *(
        {*(f"lokr_{name}" for name in first), *(f"lokr_{name}" for name in second)}
        for first in (("w1",), ("w1_a", "w1_b"))
        for second in (("w2",), ("w2_a", "w2_b"), ("w2_a", "w2_b", "t2"))
    ),
    {"diff"},
)
"""The sets of tensors that change a weight; beside them there may be an alpha, a magnitude and a bias' difference."""
RANKED = ("down", "hada_w1_b", "lokr_w1_b", "lokr_w2_b")
"""Tensors whose first side is the rank; the first that a layer has counts."""


@dataclass(frozen=True)
class Layer:
    """One layer of a LoRA.

    Attributes:
        name: its name in the file.
        tensors: by role, as in `COMPLETE`, and "magnitude" for DoRA.
        alpha: the numerator of its scale, or None if the file does not have it.
        stabilized: divide by the root of the rank.
    """

    name: str
    tensors: Mapping[str, Tensor] = field(repr=False)
    alpha: float | None = None
    stabilized: bool = False

    def check(self, weight: Tensor) -> None:
        """Checks that the layer is complete and fits a weight, without computing anything.

        Raises:
            TetherError: saying what is wrong, without the file's name.
        """
        roles = self.tensors.keys() - {"magnitude", "diff_b"}
        if roles not in COMPLETE and self.tensors.keys() != {"diff_b"}:
            raise TetherError(f"layer {self.name} is incomplete: it has {', '.join(sorted(roles)) or 'no matrix'}")
        if "magnitude" in self.tensors and "diff" in self.tensors:
            raise TetherError(f"layer {self.name} has a magnitude beside a full difference: expected low-rank matrices")
        if self.alpha is not None and self.rank == 0:
            raise TetherError(f"layer {self.name} has rank 0")
        hollow = Layer(self.name, {role: tensor.to("meta") for role, tensor in self.tensors.items()}, self.alpha)
        try:
            if roles:
                hollow.merged(weight.to("meta"), 1.0)
        except (RuntimeError, IndexError, ValueError):
            shapes = ", ".join(f"{role} {tuple(tensor.shape)}" for role, tensor in self.tensors.items())
            raise TetherError(
                f"layer {self.name} ({shapes}) does not change a weight of shape {tuple(weight.shape)}"
            ) from None

    @property
    def rank(self) -> int | None:
        """The rank; None for full matrices."""
        return next((self.tensors[role].shape[0] for role in RANKED if role in self.tensors), None)

    @property
    def scale(self) -> float:
        """alpha / rank, or alpha / sqrt(rank)."""
        if self.alpha is None or self.rank is None:
            return 1.0
        return self.alpha / (self.rank**0.5 if self.stabilized else self.rank)

    def merged(self, weight: Tensor, strength: float) -> Tensor:
        """The weight with the layer's change, in the weight's dtype, as a new tensor."""
        whole = weight.detach().float()
        if "magnitude" not in self.tensors:
            return (whole + self._change(whole, self.scale * strength)).to(weight.dtype)
        moved = whole + self._change(whole, self.scale)
        magnitude = self._get("magnitude", whole)
        # One number an output (out, 1); in early files of LyCORIS one an input, (1, in).
        axis = 1 if magnitude.ndim > 1 and magnitude.shape[0] == 1 and len(whole) > 1 else 0
        sides = [side for side in range(whole.ndim) if side != axis]
        across = [-1 if side == axis else 1 for side in range(whole.ndim)]
        norm = torch.linalg.vector_norm(moved, dim=sides, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        return (whole + strength * (magnitude.reshape(across) * moved / norm - whole)).to(weight.dtype)

    def merged_bias(self, bias: Tensor, strength: float) -> Tensor:
        """The bias `(out,)` with the layer's change, as a new tensor."""
        change = self._get("diff_b", bias.detach()).reshape(bias.shape)
        return (bias.detach().float() + strength * change).to(bias.dtype)

    def _get(self, role: str, like: Tensor) -> Tensor:
        return self.tensors[role].to(like.device, torch.float32)

    def _change(self, like: Tensor, scale: float) -> Tensor:
        """The change, times a scale, in the shape of a weight."""
        roles = self.tensors.keys()
        if "diff" in roles:
            return self._get("diff", like).reshape(like.shape) * scale
        product = self._lora(like) if "up" in roles else self._loha(like) if "hada_w1_a" in roles else self._lokr(like)
        if product.shape[0] != like.shape[0] or (product.ndim == like.ndim == 4 and product.shape != like.shape):
            raise ValueError(f"{tuple(product.shape)} is not {tuple(like.shape)}")
        return product.reshape(like.shape) * scale

    def _lora(self, like: Tensor) -> Tensor:
        up, down = self._get("up", like).flatten(1), self._get("down", like)
        if "mid" in self.tensors:
            return torch.einsum("oa,abhw,bi->oihw", up, self._get("mid", like), down.flatten(1))
        return (up @ down.flatten(1)).reshape(len(up), *down.shape[1:])

    def _loha(self, like: Tensor) -> Tensor:
        first, second = (self._product(f"hada_w{k}_a", f"hada_w{k}_b", f"hada_t{k}", like) for k in (1, 2))
        return first * second

    def _lokr(self, like: Tensor) -> Tensor:
        first = self._product("lokr_w1_a", "lokr_w1_b", "", like, whole="lokr_w1")
        second = self._product("lokr_w2_a", "lokr_w2_b", "lokr_t2", like, whole="lokr_w2")
        return torch.kron(first.reshape(*first.shape, *[1] * (second.ndim - first.ndim)), second.contiguous())

    def _product(self, a: str, b: str, core: str, like: Tensor, whole: str = "") -> Tensor:
        """A matrix as it is, a product of two, or one of two and a core `(rank, rank, kh, kw)` (Tucker's form)."""
        if whole in self.tensors:
            return self._get(whole, like)
        left, right = self._get(a, like), self._get(b, like)
        if core in self.tensors:
            return torch.einsum("ijhw,jr,ip->prhw", self._get(core, like), right, left)
        return left @ right.flatten(1)
