"""Equation 2 for one block."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2DCrossAttn
from torch import Tensor, nn

from tether.control import ControlledBlock
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


def train_a_step(block: ControlledBlock, x: Tensor, c: Tensor, steps: int = 1) -> None:
    optimizer = torch.optim.SGD([p for p in block.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        (block(x, c=c) - 1).square().mean().backward()
        optimizer.step()


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


def test_an_image_condition_of_another_size_is_averaged_or_repeated_to_the_size_of_x():
    block = ControlledBlock(nn.Conv2d(3, 3, 1), condition_channels=2)
    for parameter in (*block.zero_in.parameters(), *block.zero_out.parameters()):
        nn.init.normal_(parameter)
    x, c = torch.randn(2, 3, 4, 6), torch.randn(2, 2, 8, 12)
    means = c.reshape(2, 2, 4, 2, 6, 2).mean((3, 5))
    torch.testing.assert_close(block(x, c=c), block(x, c=means))
    small = torch.randn(2, 2, 2, 3)
    torch.testing.assert_close(block(x, c=small), block(x, c=small.repeat_interleave(2, 2).repeat_interleave(2, 3)))


@pytest.mark.parametrize(
    ("make", "shape", "place"),
    [(lambda: nn.Conv2d(3, 3, 1), (2, 3, 4, 6), (2, 5, 1, 1)), (lambda: nn.Linear(3, 3), (2, 7, 3), (2, 1, 5))],
)
def test_a_condition_without_positions_acts_on_every_position(make, shape, place):
    block = ControlledBlock(make(), condition_channels=5)
    for parameter in (*block.zero_in.parameters(), *block.zero_out.parameters()):
        nn.init.normal_(parameter)
    x, c = torch.randn(shape), torch.randn(2, 5)
    everywhere = [1, 1, *shape[2:]] if len(shape) == 4 else [1, shape[1], 1]
    torch.testing.assert_close(block(x, c=c), block(x, c=c.reshape(place).repeat(everywhere)))


def test_the_first_element_of_a_tuple_is_what_is_controlled():
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, str]:
            return self.linear(x), "attention"

    block, x = ControlledBlock(Pair()), torch.randn(2, 4)
    nn.init.ones_(block.zero_out.bias)
    y, rest = block(x, c=x)
    assert torch.equal(y, block.locked(x)[0] + 1)
    assert rest == "attention"


def test_attributes_that_networks_look_up_are_the_locked_blocks():
    F = linear_block()
    block = ControlledBlock(F)
    assert block.self_attn is F.self_attn
    with pytest.raises(AttributeError, match="nothing"):
        block.nothing  # noqa: B018
