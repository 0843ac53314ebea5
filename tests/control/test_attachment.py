"""Any network under control: exact before training, learned parts apart from the network, detached without a trace."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import tether
from tether.control import Attached, ControlledBlock, attach
from tether.errors import TetherError


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ConvNet(nn.Module):
    """Blocks at two resolutions, some of it frozen and in evaluation mode, as found in practice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.blocks = nn.ModuleList([Residual(6), nn.Conv2d(6, 8, 2, stride=2), Residual(8)])
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(8, 1, 1))
        self.blocks[0].body[0].weight.requires_grad_(False)
        self.blocks[0].body[1].eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def conv_net() -> tuple[nn.Module, list[str], Tensor, Tensor]:
    torch.manual_seed(0)
    return ConvNet(), ["blocks.0", "blocks.2"], torch.randn(2, 3, 8, 8), torch.randn(2, 5, 8, 8)


def transformer() -> tuple[nn.Module, list[str], Tensor, Tensor]:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16, dropout=0.1, batch_first=True)
    network = nn.Sequential(OrderedDict(encoder=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)))
    return network, ["encoder.layers.0", "encoder.layers.1"], torch.randn(2, 6, 8), torch.randn(2, 6, 5)


NETWORKS = [pytest.param(conv_net, id="convolutions"), pytest.param(transformer, id="transformer")]


def fingerprint(network: nn.Module) -> list[object]:
    """Everything that `detach` promises to restore, object identities included."""
    return [
        [(name, id(module), module.training) for name, module in network.named_modules()],
        [(name, id(parameter), parameter.requires_grad) for name, parameter in network.named_parameters()],
        [(key, value.dtype, value.numpy().tobytes()) for key, value in network.state_dict().items()],
    ]


def train(control: Attached, x: Tensor, c: Tensor, steps: int = 3) -> list[set[str]]:
    """Plain steps; the names of parameters that had a gradient at each."""
    optimizer = torch.optim.SGD(control.parameters(), lr=0.05)
    reached = []
    for _ in range(steps):
        optimizer.zero_grad()
        (control(x, c=c) - 1).square().mean().backward()
        reached.append({n for n, p in control.named_parameters() if p.grad is not None and p.grad.any()})
        optimizer.step()
    return reached


@pytest.mark.parametrize("make", NETWORKS)
@torch.no_grad()  # torch's transformer layer uses another kernel, with other rounding, when gradients are needed
def test_before_training_the_controlled_network_is_exactly_the_network(make):
    network, blocks, x, c = make()
    network.eval()
    expected = network(x)
    control = attach(network, blocks, 5)
    assert torch.equal(control(x, c=c), expected)
    assert torch.equal(network(x), expected)


@pytest.mark.parametrize("make", NETWORKS)
def test_only_zero_layers_get_a_gradient_at_the_first_step_and_the_copies_from_the_second(make):
    network, blocks, x, c = make()
    reached = train(attach(network, blocks, 5), x, c)
    assert reached[0] == {f"learned.{b.replace('.', '/')}.zero_out.{p}" for b in blocks for p in ("weight", "bias")}
    for block in blocks:
        prefix = f"learned.{block.replace('.', '/')}"
        assert any(name.startswith(f"{prefix}.copy") for name in reached[1])
        assert f"{prefix}.zero_in.weight" in reached[1]


@pytest.mark.parametrize("make", NETWORKS)
def test_training_reaches_nothing_of_the_network_and_detaching_leaves_no_trace(make):
    network, blocks, x, c = make()
    before = fingerprint(network)
    control = attach(network, blocks, 5)
    control.train()
    train(control, x, c)
    assert all(parameter.grad is None for name, parameter in network.named_parameters() if "locked" in name)
    network.train()
    network.requires_grad_(True)
    assert control.detach() is network
    assert fingerprint(network) == before
    control.detach()
    assert fingerprint(network) == before


@pytest.mark.parametrize("make", NETWORKS)
def test_what_was_learned_is_saved_apart_and_steers_another_copy_of_the_network(make, tmp_path: Path):
    network, blocks, x, c = make()
    control = attach(network, blocks, 5)
    train(control, x, c)
    control.eval()
    steered = control(x, c=c)
    assert not torch.equal(steered, network(x))
    control.save(tmp_path / "control.safetensors")

    again, *_ = make()
    reloaded = attach(again, blocks, 5).load(tmp_path / "control.safetensors").eval()
    assert torch.equal(reloaded(x, c=c), steered)
    assert [path.name for path in tmp_path.iterdir()] == ["control.safetensors"]


@pytest.mark.parametrize("make", NETWORKS)
def test_parameters_and_state_are_those_of_the_trainable_side_alone(make):
    network, blocks, _, _ = make()
    own = {id(parameter) for parameter in network.parameters()}
    control = attach(network, blocks, 5)
    assert not own & {id(parameter) for parameter in control.parameters()}
    assert all(parameter.requires_grad for parameter in control.parameters())
    assert not any("locked" in name for name in control.state_dict())


def test_inside_conditioned_a_network_that_knows_nothing_of_conditions_is_steered():
    network, blocks, x, c = conv_net()
    control = attach(network, blocks, 5)
    train(control, x, c)
    control.eval()
    alone = network(x)
    with control.conditioned(c):
        steered = network(x)
    assert torch.equal(network(x), alone)
    assert torch.equal(steered, control(x, c=c))
    assert not torch.equal(steered, alone)


def test_an_encoder_is_trained_with_the_copies_and_run_once_for_all_blocks():
    network, blocks, x, _ = conv_net()
    runs = []
    encoder = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 7, 1))
    encoder.register_forward_hook(lambda *_: runs.append(1))
    control = attach(network, blocks, encoder)
    reached = train(control, x, torch.randn(2, 1, 16, 16), steps=3)
    assert len(runs) == 3
    assert not any(name.startswith("encoder") for name in reached[0] | reached[1])
    assert "encoder.0.weight" in reached[2]  # zero layers first, then copies and zero_in, then the encoder
    assert control.learned["blocks/0"]["zero_in"].weight.shape[1] == 7


def test_one_condition_serves_blocks_of_different_sizes():
    network, blocks, x, c = conv_net()
    control = attach(network, blocks, 5)
    assert control(x, c=c).shape == (2, 1, 4, 4)
    assert control(x, c=torch.randn(2, 5)).shape == (2, 1, 4, 4)


def test_a_function_chooses_the_outermost_blocks():
    network, _, _, _ = conv_net()
    control = attach(network, lambda path, module: path.startswith("blocks.") and path != "blocks.1", 5)
    assert list(control.learned) == ["blocks/0", "blocks/2"]
    assert isinstance(network.blocks[2], ControlledBlock)
    assert not isinstance(network.blocks[1], ControlledBlock)


def test_at_the_end_of_a_with_block_the_network_is_restored_also_after_an_error():
    network, blocks, _, _ = conv_net()
    before = fingerprint(network)

    def fail() -> None:
        with attach(network, blocks, 5):
            assert isinstance(network.blocks[0], ControlledBlock)
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        fail()
    assert fingerprint(network) == before


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (["blocks.7"], "ConvNet has no block 'blocks.7'"),
        (["blocks.0", "nothing"], "no block 'nothing'"),
        (["blocks.0.body.0.weight"], "no block"),
        ([""], "no block ''"),
        ([], "no block was chosen"),
        (lambda path, module: False, "no block was chosen"),
        (["blocks", "blocks.0"], "lies inside another"),
        (["blocks.0", "blocks.0.body.2"], "lies inside another"),
        (["stem", "blocks.0.body.2"], "block 'blocks.0.body.2': ReLU has no convolution"),
    ],
)
def test_blocks_that_cannot_be_controlled_are_refused_and_the_network_stays_as_it_was(blocks, message):
    network, _, _, _ = conv_net()
    before = fingerprint(network)
    with pytest.raises(TetherError, match=message):
        attach(network, blocks, 5)
    assert fingerprint(network) == before


def test_a_block_under_control_is_refused_a_second_control():
    network, blocks, _, _ = conv_net()
    attach(network, blocks, 5)
    with pytest.raises(TetherError, match="under control already"):
        attach(network, blocks, 5)


def test_an_encoder_whose_channels_cannot_be_read_needs_them_given():
    network, blocks, x, _ = conv_net()
    with pytest.raises(TetherError, match="give condition_channels"):
        attach(network, blocks, nn.PixelUnshuffle(2))
    control = attach(network, blocks, nn.PixelUnshuffle(2), condition_channels=4)
    assert control(x, c=torch.randn(2, 1, 16, 16)).shape == (2, 1, 4, 4)


def test_a_detached_control_says_so(tmp_path: Path):
    network, blocks, x, c = conv_net()
    control = attach(network, blocks, 5)
    control.detach()
    with pytest.raises(TetherError, match="was detached"):
        control(x, c=c)
    control.save(tmp_path / "a.safetensors")
    attach(network, blocks, 5).load(tmp_path / "a.safetensors")


def test_files_of_other_blocks_or_nothing_are_refused(tmp_path: Path):
    network, blocks, _, _ = conv_net()
    with attach(network, blocks[:1], 5) as control:
        control.save(tmp_path / "a.safetensors")
    control = attach(network, blocks, 5)
    with pytest.raises(TetherError, match=r"lacks learned\.blocks/2"):
        control.load(tmp_path / "a.safetensors")
    with pytest.raises(TetherError, match="is not a file"):
        control.load(tmp_path / "b.safetensors")


def test_containers_keep_their_order():
    network = nn.Sequential(OrderedDict(first=nn.Conv2d(3, 3, 1), second=nn.Conv2d(3, 3, 1)))
    control = attach(network, "first", 3)
    assert [name for name, _ in network.named_children()] == ["first", "second"]
    control.detach()
    assert [name for name, _ in network.named_children()] == ["first", "second"]


def test_attach_is_a_name_of_the_package():
    assert tether.attach is attach
