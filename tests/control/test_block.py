"""Equation 2 for one block, and that attaching it can be undone without a trace."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2DCrossAttn
from torch import Tensor, nn

from tether.control import ControlledBlock, attach, attached, detach
from tether.errors import TetherError


def conv_block(channels: int = 4, out: int = 6) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, out, 1))


def linear_block() -> nn.Module:
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16, dropout=0.5, batch_first=True)


BLOCKS = [
    pytest.param(conv_block, (2, 4, 5, 3), id="conv"),
    pytest.param(linear_block, (2, 5, 8), id="linear"),
]


class Model(nn.Module):
    """Two blocks, one of them frozen in part and in evaluation mode, as found in the wild."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([conv_block(4, 6), conv_block(6, 4)])
        self.head = nn.Conv2d(4, 1, 1)
        self.blocks[0][0].weight.requires_grad_(False)
        self.blocks[0][1].eval()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def fingerprint(model: nn.Module) -> list[object]:
    """Everything `detach` promises to restore, object identities included."""
    return [
        [(name, id(module), module.training) for name, module in model.named_modules()],
        [(name, id(parameter), parameter.requires_grad) for name, parameter in model.named_parameters()],
        [(key, value.dtype, value.numpy().tobytes()) for key, value in model.state_dict().items()],
    ]


def train_a_step(block: ControlledBlock, x: Tensor, c: Tensor, steps: int = 1) -> None:
    optimiser = torch.optim.SGD([p for p in block.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        (block(x, c=c) - 1).square().mean().backward()
        optimiser.step()


@pytest.mark.parametrize(("make", "shape"), BLOCKS)
def test_before_training_the_controlled_block_is_exactly_the_block(make, shape):
    # Frozen beforehand: torch's transformer layer takes another kernel, that rounds otherwise, when it is.
    F, x, c = make().eval().requires_grad_(False), torch.randn(shape), torch.randn(shape)
    expected = F(x)
    assert torch.equal(ControlledBlock(F)(x, c=c), expected)


@pytest.mark.parametrize(("make", "shape"), BLOCKS)
def test_trained_block_computes_equation_2(make, shape):
    x, c = torch.randn(shape), torch.randn(shape)
    block = ControlledBlock(make().eval()).eval()
    for parameter in (*block.zero_in.parameters(), *block.zero_out.parameters(), *block.copy.parameters()):
        nn.init.normal_(parameter, std=0.3)

    def affine(layer: nn.Module, tensor: Tensor) -> Tensor:
        matrix, channels = layer.weight.flatten(1), 1 if tensor.ndim == 4 else -1
        return (torch.tensordot(tensor.movedim(channels, -1), matrix.T, 1) + layer.bias).movedim(-1, channels)

    y = block.locked(x) + affine(block.zero_out, block.copy(x + affine(block.zero_in, c)))
    torch.testing.assert_close(block(x, c=c), y)
    assert not torch.allclose(y, block.locked(x))


@pytest.mark.parametrize(("make", "shape"), BLOCKS)
def test_training_changes_the_copy_and_the_zero_layers_and_never_the_locked_block(make, shape):
    F = make().train()
    before = {key: value.clone() for key, value in F.state_dict().items()}
    block = ControlledBlock(F).train()
    copied = {key: value.clone() for key, value in block.copy.state_dict().items()}
    train_a_step(block, torch.randn(shape), torch.randn(shape), steps=3)
    assert all(torch.equal(value, before[key]) for key, value in F.state_dict().items())
    assert any(not torch.equal(value, copied[key]) for key, value in block.copy.state_dict().items())
    assert block.zero_in.weight.any()
    assert block.zero_out.weight.any()


def test_without_a_condition_a_trained_block_is_the_block():
    F, x = conv_block().eval(), torch.randn(2, 4, 5, 3)
    block = ControlledBlock(F)
    train_a_step(block, x, x, steps=2)
    assert torch.equal(block(x), F(x))
    assert not torch.equal(block(x, c=x), F(x))


def test_condition_may_have_its_own_channel_count_and_further_arguments_reach_the_block_and_its_copy():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor, scale: float, *, shift: float) -> Tensor:
            return self.conv(x) * scale + shift

    x, c = torch.randn(2, 4, 3, 3), torch.randn(2, 7, 3, 3)
    block = ControlledBlock(Scaled(), condition_channels=7)
    nn.init.ones_(block.zero_out.weight)
    expected = block.locked(x, 2.0, shift=3.0) + block.copy(x, 2.0, shift=3.0).sum(1, keepdim=True)
    torch.testing.assert_close(block(x, 2.0, shift=3.0, c=c), expected.expand(2, 4, 3, 3))


def test_channels_of_a_grouped_convolution_are_read_right():
    block = ControlledBlock(nn.Conv2d(8, 12, 1, groups=4))
    assert (block.zero_in.weight.shape[1], block.zero_out.weight.shape[0]) == (8, 12)


def test_images_that_pass_through_linear_layers_too_are_images():
    """The middle of SD 2.x and SDXL: its attention projects with linear layers, and stands before the convolutions."""
    block = UNetMidBlock2DCrossAttn(
        8, temb_channels=16, cross_attention_dim=12, num_attention_heads=2, resnet_groups=4, use_linear_projection=True
    )
    controlled = ControlledBlock(block)
    assert controlled.layout == "conv"
    x, c = torch.randn(2, 2, 8, 4, 6)
    y = controlled(x, torch.randn(2, 16), c=c, encoder_hidden_states=torch.randn(2, 5, 12))
    assert y.shape == x.shape


def test_a_transposed_convolution_is_one():
    block = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ConvTranspose2d(8, 3, 2, 2))
    assert ControlledBlock(block)(torch.randn(1, 4, 6, 6), c=torch.randn(1, 4, 6, 6)).shape == (1, 3, 12, 12)


def test_a_block_without_layers_needs_its_channels_given():
    with pytest.raises(TetherError, match="give in_channels"):
        ControlledBlock(nn.ReLU())
    block = ControlledBlock(nn.ReLU(), in_channels=3, out_channels=3, layout="conv")
    x = torch.randn(1, 3, 2, 2)
    assert torch.equal(block(x, c=x), x.relu())


def test_a_condition_of_the_wrong_shape_is_refused_in_one_line():
    block = ControlledBlock(conv_block(), condition_channels=3)
    with pytest.raises(TetherError, match=r"\(2, 4, 5, 3\).*\(2, 3, 5, 3\)") as error:
        block(torch.randn(2, 4, 5, 3), c=torch.randn(2, 4, 5, 3))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("training", [True, False])
def test_detach_leaves_the_model_bit_identical(training):
    model = Model()
    model.blocks[1].train(training)
    before, x = fingerprint(model), torch.randn(2, 4, 5, 3)

    block = attach(model, "blocks.0")
    model.train()
    with block.conditioned(x):
        train_a_step(block, x, x, steps=2)
        assert torch.isfinite(model.blocks[0](x)).all()
    model.eval()
    model.requires_grad_(True)
    model.blocks[1].train(training)
    model.head.train()
    model.blocks.training = model.training = True

    assert detach(model, "blocks.0") is block
    assert fingerprint(model) == before


def test_attached_takes_the_control_out_again_when_the_body_fails():
    model = Model()
    before = fingerprint(model)

    def fail() -> None:
        with attached(model, "blocks.1"):
            assert isinstance(model.blocks[1], ControlledBlock)
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        fail()
    assert fingerprint(model) == before


def test_a_condition_set_for_a_while_steers_a_model_that_knows_nothing_of_conditions():
    model = Model().eval()
    x, c = torch.randn(2, 4, 5, 3), torch.randn(2, 4, 5, 3)
    base = model(x)
    with attached(model, "blocks.0") as block:
        with block.conditioned(c):
            assert torch.equal(model(x), base)
        train_a_step(block, x, c, steps=2)
        model.eval()
        with block.conditioned(c):
            steered = model(x)
        assert torch.equal(model(x), base)
    assert not torch.equal(steered, base)
    assert torch.equal(model(x), base)


def test_attach_works_in_sequential_and_in_named_containers_and_keeps_the_order():
    model = nn.Sequential(OrderedDict(first=conv_block(4, 6), second=conv_block(6, 4))).eval()
    x = torch.randn(2, 4, 5, 3)
    base = model(x)
    attach(model, "first")
    assert [name for name, _ in model.named_children()] == ["first", "second"]
    assert torch.equal(model(x), base)
    detach(model, "first")
    assert [name for name, _ in model.named_children()] == ["first", "second"]


@pytest.mark.parametrize("path", ["blocks.7", "nothing", "blocks.0.0.weight", ""])
def test_a_path_without_a_block_is_refused_and_changes_nothing(path):
    model = Model()
    before = fingerprint(model)
    with pytest.raises(TetherError):
        attach(model, path)
    assert fingerprint(model) == before


def test_attaching_twice_and_detaching_what_is_not_attached_are_refused():
    model = Model()
    with pytest.raises(TetherError, match="not under control"):
        detach(model, "blocks.0")
    attach(model, "blocks.0")
    with pytest.raises(TetherError, match="under control already"):
        attach(model, "blocks.0")
