"""Section 3.1: a zero layer gives nothing, and learns all the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tether.control import ZeroConv2d, ZeroLinear

LAYERS = [
    pytest.param(lambda: ZeroConv2d(3, 5), (2, 3, 4, 6), id="conv"),
    pytest.param(lambda: ZeroConv2d(3, 5, kernel_size=3), (2, 3, 4, 6), id="conv 3x3"),
    pytest.param(lambda: ZeroLinear(3, 5), (2, 4, 3), id="linear"),
]


def loss_of(y: Tensor) -> Tensor:
    """Any loss whose gradient at y = 0 is not zero: |y - 1|²."""
    return (y - 1).square().sum()


@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_at_step_0_output_and_input_gradient_are_zero_but_weight_and_bias_gradients_are_not(make, shape):
    layer, x = make(), torch.randn(shape, requires_grad=True)
    y = layer(x)
    loss_of(y).backward()
    assert torch.equal(y, torch.zeros_like(y))
    assert torch.equal(x.grad, torch.zeros_like(x))
    assert layer.weight.grad.abs().min() > 0
    assert layer.bias.grad.abs().min() > 0


def test_gradients_are_the_papers():
    """∂y/∂w = x and ∂y/∂b = 1: the gradient of a loss L is Σ x ∂L/∂y and Σ ∂L/∂y."""
    layer, x = ZeroConv2d(3, 5), torch.randn(2, 3, 4, 6)
    y = layer(x)
    y.retain_grad()
    loss_of(y).backward()
    torch.testing.assert_close(layer.weight.grad[:, :, 0, 0], torch.einsum("bohw,bihw->oi", y.grad, x))
    torch.testing.assert_close(layer.bias.grad, y.grad.sum((0, 2, 3)))


@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_after_one_optimiser_step_the_weight_and_the_input_gradient_are_not_zero(make, shape):
    layer, x = make(), torch.randn(shape, requires_grad=True)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.01)
    loss_of(layer(x)).backward()
    optimiser.step()
    x.grad = None
    loss_of(layer(x)).backward()
    assert layer.weight.abs().min() > 0
    assert x.grad.abs().max() > 0


def test_channels_are_kept_when_only_the_input_is_given():
    assert ZeroConv2d(7)(torch.randn(1, 7, 2, 2)).shape == (1, 7, 2, 2)
    assert ZeroLinear(7)(torch.randn(1, 2, 7)).shape == (1, 2, 7)


def test_state_dicts_interchange_with_torch_layers():
    conv, linear = nn.Conv2d(3, 5, 1), nn.Linear(3, 5)
    x = torch.randn(2, 3, 4, 4)
    zero_conv, zero_linear = ZeroConv2d(3, 5), ZeroLinear(3, 5)
    zero_conv.load_state_dict(conv.state_dict())
    zero_linear.load_state_dict(linear.state_dict())
    assert torch.equal(zero_conv(x), conv(x))
    assert torch.equal(zero_linear(x.movedim(1, -1)), linear(x.movedim(1, -1)))


def test_reset_makes_a_trained_layer_zero_again():
    layer = ZeroConv2d(2)
    nn.init.normal_(layer.weight)
    layer.reset_parameters()
    assert not layer.weight.any()
