"""Muon for matrices and kernels, AdamW for everything else, as one optimizer.

    B_k = μ B_k-1 + (1 - μ) g_k,   θ_k = (1 - η λ) θ_k-1 - 0.2 η sqrt(max(m, n)) NS(g_k + μ (B_k - g_k))

NS orthogonalizes an m x n matrix by five Newton-Schulz iterations (Jordan 2024, "Muon: an optimizer for hidden layers
in neural networks"). The factor scales Muon's steps to AdamW's size, so that one learning rate serves both
(arXiv:2502.16982). NS is computed in bfloat16, as in PyTorch's Muon, or in float32 on a CPU without instructions for
bfloat16, where that is ten times as fast. On a GPU the matrices of one shape are stepped together: one by one, the 161
matrices of the shipped base are thousands of small operations a step, which take longer to start than to run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tether.base.precision import has_bf16
from tether.errors import TetherError

__all__ = ["MuonAndAdamW", "is_matrix", "step_together"]

_MOMENTUM, _ITERATIONS, _COEFFICIENTS = 0.95, 5, (3.4445, -4.775, 2.0315)
"""Defaults of `torch.optim.Muon`."""


class MuonAndAdamW(torch.optim.Optimizer):
    """A kernel `(out, in, h, w)` is stepped as the matrix `(out, h * w * in)`: a view of memory that is channels last.

    Args:
        matrices: parameters of two dimensions or more, for Muon.
        others: the rest, for AdamW.
        lr: learning rate of both.
        betas: of AdamW.
        weight_decay: of both.

    Raises:
        TetherError: when this PyTorch has no Muon.
    """

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        others: Sequence[nn.Parameter],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise TetherError("optimizer muon needs PyTorch 2.9 or newer")
        groups: list[dict[str, Any]] = [{"params": list(matrices), "muon": True}] if matrices else []
        # "fused", so that PyTorch restores the numbers of steps to where its fused AdamW reads them.
        groups += [{"params": list(others), "muon": False, "fused": True}] if others else []
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                (self._muon if group["muon"] else self._adamw)(parameters, group)
        return loss

    def _muon(self, parameters: Sequence[Tensor], group: dict[str, Any]) -> None:
        """A step of Muon on the parameters as matrices; its state is kept here, as matrices too."""
        matrices = [nn.Parameter(_matrix(parameter.detach())) for parameter in parameters]
        for matrix, parameter in zip(matrices, parameters, strict=True):
            assert parameter.grad is not None
            matrix.grad = _matrix(parameter.grad)
        on_gpu = matrices[0].is_cuda
        if on_gpu or not has_bf16():
            momenta = [self._momentum(*pair) for pair in zip(parameters, matrices, strict=True)]
            dtype = torch.bfloat16 if on_gpu else torch.float32
            step_together(matrices, momenta, group["lr"], group["weight_decay"], dtype)
        else:
            inner = torch.optim.Muon(
                matrices, group["lr"], weight_decay=group["weight_decay"], adjust_lr_fn="match_rms_adamw"
            )
            self._step(inner, parameters, matrices)
        self._copy_back(parameters, matrices)

    def _momentum(self, parameter: Tensor, matrix: Tensor) -> Tensor:
        """B of a parameter, under the name that PyTorch's Muon gives it."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        return state["momentum_buffer"]

    def _copy_back(self, parameters: Sequence[Tensor], matrices: Sequence[Tensor]) -> None:
        """Gives parameters the values of those matrices that are copies of them."""
        for matrix, parameter in zip(matrices, parameters, strict=True):
            if matrix.data_ptr() != parameter.data_ptr():
                _matrix_to(matrix.detach(), parameter)

    def _adamw(self, parameters: Sequence[Tensor], group: dict[str, Any]) -> None:
        """PyTorch's fused AdamW."""
        inner = torch.optim.AdamW(
            parameters, group["lr"], group["betas"], weight_decay=group["weight_decay"], fused=True
        )
        self._step(inner, parameters, parameters)

    def _step(self, inner: torch.optim.Optimizer, parameters: Sequence[Tensor], stepped: Sequence[Tensor]) -> None:
        """A step of `inner` on the tensors `stepped`, with the state that is kept for `parameters`."""
        for parameter, tensor in zip(parameters, stepped, strict=True):
            if state := self.state[parameter]:
                inner.state[tensor] = state
        inner.step()
        for parameter, tensor in zip(parameters, stepped, strict=True):
            self.state[parameter] = inner.state[tensor]


@torch.no_grad()
def step_together(
    matrices: Sequence[Tensor],
    momenta: Sequence[Tensor],
    lr: float,
    weight_decay: float,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """A step of Muon, as `torch.optim.Muon` takes it with `match_rms_adamw`; matrices of one shape at once.

    Args:
        matrices: with their gradients.
        momenta: B of each, changed in place.
        lr: learning rate.
        weight_decay: λ.
        dtype: NS is computed in it.
    """
    matrices, momenta = list(matrices), list(momenta)
    gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
    assert len(gradients) == len(matrices)
    torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
    updates = torch._foreach_lerp(gradients, momenta, _MOMENTUM)
    torch._foreach_mul_(matrices, 1 - lr * weight_decay)
    shapes: dict[torch.Size, list[int]] = {}
    for number, matrix in enumerate(matrices):
        shapes.setdefault(matrix.shape, []).append(number)
    for shape, numbers in shapes.items():
        factors = _orthogonalized(torch.stack([updates[number] for number in numbers]).to(dtype))
        size = -0.2 * lr * math.sqrt(max(shape))
        torch._foreach_add_([matrices[number] for number in numbers], list(factors.float().unbind()), alpha=size)


def _orthogonalized(updates: Tensor) -> Tensor:
    """NS of each matrix, `(N, m, n)` -> `(N, m, n)`: nearly U V^T of U S V^T."""
    tall = updates.shape[1] > updates.shape[2]
    x = updates.mT if tall else updates
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def is_matrix(parameter: nn.Parameter, tables: Sequence[nn.Parameter] = ()) -> bool:
    """Whether Muon steps a parameter: it has two dimensions or more and is not an embedding `tables` lists."""
    return parameter.ndim > 1 and not any(parameter is table for table in tables)


def _matrix(kernel: Tensor) -> Tensor:
    return (kernel.permute(0, 2, 3, 1) if kernel.ndim == 4 else kernel).flatten(1)


def _matrix_to(matrix: Tensor, parameter: Tensor) -> None:
    """Copies a matrix into the parameter that `_matrix` made it of."""
    if parameter.ndim == 4:
        out, channels, height, width = parameter.shape
        parameter.copy_(matrix.view(out, height, width, channels).permute(0, 3, 1, 2))
    else:
        parameter.copy_(matrix.view(parameter.shape))
