"""Muon for matrices and kernels, AdamW for the rest."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tether.errors import TetherError
from tether.training.muon import MuonAndAdamW, step_together
from tether.training.optimizer import make_muon


def network(memory_format: torch.memory_format = torch.channels_last) -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(8, 6), nn.LayerNorm(6))
    return made.to(memory_format=memory_format)  # type: ignore[call-overload]


def trained(model: nn.Module, optimizer: Any, steps: int = 4) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    for _ in range(steps):
        model(torch.randn(5, 4, 3, 3, generator=random)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [parameter.detach().clone() for parameter in model.parameters()]


class Separate:
    """PyTorch's own Muon on views of the matrices, and its AdamW."""

    def __init__(self, model: nn.Module) -> None:
        every = list(model.parameters())
        self.kernels = [p for p in every if p.ndim > 1]
        self.matrices = [nn.Parameter(self.matrix(p.detach())) for p in self.kernels]
        self.muon = torch.optim.Muon(self.matrices, 0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        others = [p for p in every if p.ndim < 2]
        self.adamw = torch.optim.AdamW(others, 0.01, (0.9, 0.99), weight_decay=0.1, fused=True)

    @staticmethod
    def matrix(kernel: torch.Tensor) -> torch.Tensor:
        return (kernel.permute(0, 2, 3, 1) if kernel.ndim == 4 else kernel).flatten(1)

    def step(self) -> None:
        for kernel, matrix in zip(self.kernels, self.matrices, strict=True):
            assert kernel.grad is not None
            matrix.grad = self.matrix(kernel.grad)
        self.muon.step()
        self.adamw.step()

    def zero_grad(self) -> None:
        self.adamw.zero_grad()
        for kernel in self.kernels:
            kernel.grad = None


class Dtypes(TorchDispatchMode):
    """The types of what is computed inside."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.seen |= {each.dtype for each in [made] if isinstance(each, torch.Tensor)}
        return made


@pytest.fixture
def bf16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether this CPU has instructions for bfloat16: parametrized."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": request.param}, raising=False)
    return request.param


@pytest.mark.parametrize("bf16", [True], indirect=True)
@pytest.mark.usefixtures("bf16")
def test_it_takes_the_steps_of_pytorchs_muon_and_adamw_to_the_bit() -> None:
    ours, theirs = network(), network()
    one = trained(ours, make_muon(ours, 0.01, weight_decay=0.1))
    two = trained(theirs, Separate(theirs))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("bf16", [False, True], indirect=True)
def test_kernels_are_stepped_as_pytorch_steps_matrices(bf16: bool) -> None:
    """In any layout. A CPU without bfloat16 takes float32: PyTorch emulates bfloat16 there, at a tenth of the speed."""
    ours, theirs = network(torch.contiguous_format), network()
    random = torch.Generator().manual_seed(1)
    # The same gradients for both: those of convolutions round by the layout.
    steps = [[torch.randn(parameter.shape, generator=random) for parameter in ours.parameters()] for _ in range(4)]
    for model, optimizer in ((ours, make_muon(ours, 0.01, weight_decay=0.1)), (theirs, Separate(theirs))):
        for gradients in steps:
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
            with Dtypes() as dtypes:
                optimizer.step()
        assert (torch.bfloat16 in dtypes.seen) == (bf16 or model is theirs)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)  # PyTorch orthogonalizes in bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_matrices_that_are_stepped_together_take_pytorchs_steps(shape: tuple[int, int], dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(2)
    start = [torch.randn(each, generator=random) for each in (shape, (3, 3), shape)]
    theirs = [nn.Parameter(matrix.clone()) for matrix in start]
    ours, momenta = [matrix.clone() for matrix in start], [torch.zeros_like(matrix) for matrix in start]
    muon = torch.optim.Muon(theirs, 0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for one, two in zip(ours, theirs, strict=True):
            one.grad = two.grad = torch.randn(one.shape, generator=random)
        muon.step()
        step_together(ours, momenta, 0.01, 0.1, dtype)
    for one, two, first in zip(ours, theirs, start, strict=True):
        torch.testing.assert_close(one, two.detach(), rtol=0, atol=2e-4)  # theirs is orthogonalized in bfloat16
        assert (one - first).abs().max() > 0.005
    for momentum, two in zip(momenta, theirs, strict=True):
        torch.testing.assert_close(momentum, muon.state[two]["momentum_buffer"])


def test_embedding_tables_and_vectors_are_adamws() -> None:
    model = nn.ModuleDict({"table": nn.Embedding(5, 4), "layer": nn.Linear(4, 3)})
    matrices, others = make_muon(model, 0.01).param_groups
    assert [tuple(p.shape) for p in matrices["params"]] == [(3, 4)]
    assert [tuple(p.shape) for p in others["params"]] == [(5, 4), (3,)]


def test_a_pytorch_without_muon_is_named_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(TetherError, match=r"muon needs PyTorch 2\.9"):
        MuonAndAdamW([nn.Parameter(torch.zeros(2, 2))], [], 0.1)


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_run_with_muon_in_two_sittings_has_the_bits_of_one(tiny: ModuleType, tmp_path: Path, clip: float) -> None:
    shared: dict[str, Any] = {"optimizer": "muon", "ema": 0.9, "ema_warmup": False, "max_grad_norm": clip}
    whole, _, losses = tiny.train(tmp_path / "one", steps=6, **shared)
    tiny.train(tmp_path / "two", steps=3, **shared)
    resumed, _, rest = tiny.train(tmp_path / "two", steps=6, **shared)
    assert rest == losses[3:]
    pairs = zip(whole.state.parameters, resumed.state.parameters, strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_numbers_of_steps_are_restored_to_where_the_fused_kernel_reads_them() -> None:
    """PyTorch looks for "fused" in the group: without it they stay on the CPU, and CUDA's kernel refuses them."""
    model = network()
    optimizer = make_muon(model, lr=0.01)
    trained(model, optimizer)
    groups = optimizer.state_dict()["param_groups"]
    assert [(group["muon"], group.get("fused", False)) for group in groups] == [(True, False), (False, True)]
