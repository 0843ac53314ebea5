"""Layers that keep only what the backward pass needs."""

from __future__ import annotations

import weakref
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from tether.training import objective as module
from tether.training.batch import sample_generators
from tether.training.objective import ControlObjective


def make(tiny: ModuleType, seen: int = 4, **options: Any) -> tuple[ControlObjective, torch.Tensor]:
    """An objective whose control has learned something, and its losses for a batch."""
    base = tiny.make_base()
    control = tiny.make_control(base)
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in control.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=random))
    objective = ControlObjective(base, control, **options)
    return objective, objective(tiny.batches(range(seen)), sample_generators(0, range(seen)))[0]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradients_are_those_of_plain_convolutions(
    tiny: ModuleType, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr(module, "locked_convolutions", module.nullcontext)
        objective, losses = make(tiny)
        if checkpointing and not plain:
            objective.base.unet.enable_gradient_checkpointing()
            objective.control.enable_gradient_checkpointing()
            losses, _ = objective(tiny.batches(range(4)), sample_generators(0, range(4)))
        losses.mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


def test_nothing_is_kept_of_what_only_the_gradients_of_locked_convolutions_would_need(tiny: ModuleType) -> None:
    unet = tiny.make_base().unet
    conv = next(m for m in unet.up_blocks.modules() if isinstance(m, nn.Conv2d))
    x = torch.randn(1, conv.in_channels, 8, 8, requires_grad=True)
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), module.locked_convolutions():
        y = conv(x)
    assert y.requires_grad
    assert x.data_ptr() not in kept
    assert kept == [conv.weight.data_ptr()]


class _Saved:
    """A tensor that autograd keeps."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def in_bf16(tiny: ModuleType, **options: Any) -> tuple[ControlObjective, int]:
    """An objective after a forward and a backward pass in mixed precision, and how many bytes were kept in between."""
    objective, _ = make(tiny, **options)
    parameters = {p.untyped_storage().data_ptr() for p in (*objective.parameters(), *objective.base.unet.parameters())}
    batch = tiny.batches(range(4))
    kept: weakref.WeakSet[_Saved] = weakref.WeakSet()  # what autograd lets go of is not counted

    def pack(tensor: torch.Tensor) -> _Saved:
        saved = _Saved(tensor)
        kept.add(saved)
        return saved

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        losses, _ = objective(batch, sample_generators(0, range(4)))
    storages = {one.data_ptr(): one.nbytes() for one in (saved.tensor.untyped_storage() for saved in kept)}
    bytes_kept = sum(size for place, size in storages.items() if place not in parameters)
    losses.mean().backward()
    return objective, bytes_kept


@pytest.mark.parametrize("options", [{}, {"unlock_decoder": True}, {"only_middle": True}], ids=str)
def test_in_mixed_precision_no_copies_of_weights_are_kept_and_the_gradients_are_the_same(
    tiny: ModuleType, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, kept = in_bf16(tiny, **options)
    monkeypatch.setattr(module, "uncopied_weights", module.nullcontext)
    plain, more = in_bf16(tiny, **options)
    layers = [m for m in objective.modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and m.weight.requires_grad]
    copies = 2 * sum(layer.weight.numel() for layer in layers)
    # Autocast's copy is not kept either where the layer's input takes no gradient: text states, the embedding of t.
    assert 0.9 * copies < more - kept <= copies
    for ours, theirs in zip(objective.parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None and theirs.grad is not None:
            assert ours.grad.dtype == torch.float32
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=0.02, atol=0.02 * float(theirs.grad.abs().max()))
