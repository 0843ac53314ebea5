"""Section 3.2, equation 4: the condition image becomes features of the latent's size."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from torch import nn

from tether.control import HintEncoder
from tether.errors import TetherError

VARIANTS = ["released", "paper"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_features_have_an_eighth_of_the_size(variant, channels):
    encoder = HintEncoder(channels, 20, variant)
    assert encoder(torch.rand(2, channels, 64, 40)).shape == (2, 20, 8, 5)
    assert encoder.factor == 8


@pytest.mark.parametrize("variant", VARIANTS)
def test_features_start_at_exactly_zero_and_the_last_layer_learns(variant):
    encoder = HintEncoder(3, 8, variant)
    features = encoder(torch.rand(1, 3, 16, 16))
    assert not features.any()
    (features - 1).square().sum().backward()
    assert encoder.conv_out.weight.grad.any()
    assert not encoder.conv_in.weight.grad.any()


@pytest.mark.parametrize("channels", [(16, 32, 96, 256), (4, 8), (4, 8, 8, 16, 16)])
def test_released_encoder_is_diffusers_in_names_and_numbers(channels):
    theirs = ControlNetConditioningEmbedding(12, 3, channels)
    nn.init.normal_(theirs.conv_out.weight)
    ours = HintEncoder(3, 12, "released", channels)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    condition = torch.rand(2, 3, 32, 48)
    assert torch.equal(ours(condition), theirs(condition))
    assert ours.factor * ours(condition).shape[-1] == 48


def test_released_encoder_has_the_layout_of_the_released_models():
    convs = [module for module in HintEncoder().modules() if isinstance(module, nn.Conv2d)]
    assert [conv.in_channels for conv in convs] == [3, 16, 16, 32, 32, 96, 96, 256]
    assert [conv.out_channels for conv in convs] == [16, 16, 32, 32, 96, 96, 256, 320]
    assert [conv.stride[0] for conv in convs] == [1, 1, 2, 1, 2, 1, 2, 1]
    assert {conv.kernel_size for conv in convs} == {(3, 3)}


def test_paper_encoder_has_four_4x4_convolutions_with_relu_and_the_papers_channels():
    encoder = HintEncoder(variant="paper")
    convs = [encoder.conv_in, *encoder.blocks]
    assert [conv.out_channels for conv in convs] == [16, 32, 64, 128]
    assert {conv.kernel_size for conv in convs} == {(4, 4)}
    assert [conv.stride[0] for conv in convs] == [2, 2, 2, 1]
    assert isinstance(encoder.activation, nn.ReLU)


def test_paper_encoder_starts_with_gaussian_weights_that_keep_the_variance_through_relu():
    torch.manual_seed(0)
    encoder = HintEncoder(variant="paper")
    for conv in (encoder.conv_in, *encoder.blocks):
        weight = conv.weight.detach().flatten()
        deviation = (2 / (conv.in_channels * 16)) ** 0.5
        assert weight.std().item() == pytest.approx(deviation, rel=0.1)
        # Within one and two deviations lie 68.3% and 95.4% of a Gaussian (a uniform has 57.7% and 100%).
        within = [(weight.abs() < k * deviation).float().mean().item() for k in (1, 2)]
        assert within == pytest.approx([0.683, 0.954], abs=0.04)
        assert not conv.bias.any()


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (torch.rand(3, 16, 16), "expected"),
        (torch.rand(1, 1, 16, 16), "expected"),
        (torch.rand(1, 3, 16, 20), "multiples of 8"),
        (torch.rand(1, 3, 0, 16), "multiples of 8"),
        (torch.rand(1, 3, 16, 16) * 255, r"expected \[0, 1\]"),
        (torch.rand(1, 3, 16, 16) - 1, r"expected \[0, 1\]"),
        (torch.full((1, 3, 16, 16), float("nan")), r"expected \[0, 1\]"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "divide bytes by 255"),
    ],
)
def test_a_condition_that_cannot_be_right_is_refused_in_one_line(condition, message):
    with pytest.raises(TetherError, match=message) as error:
        HintEncoder(3, 8)(condition)
    assert "\n" not in str(error.value)


def test_another_range_may_be_allowed_for_inpainting_conditions():
    condition = torch.rand(1, 3, 16, 16)
    condition[..., :8] = -1
    encoder = HintEncoder(3, 8)
    with pytest.raises(TetherError, match=r"values in \[-1, .*expected"):
        encoder(condition)
    assert encoder(condition, (-1.0, 1.0)).shape == (1, 8, 2, 2)


def test_unknown_variant_and_too_few_channels_are_refused():
    with pytest.raises(TetherError, match="released, paper"):
        HintEncoder(variant="clip")
    with pytest.raises(TetherError, match="two channel counts"):
        HintEncoder(block_out_channels=(16,))


def test_condition_is_cast_to_the_type_of_the_encoder():
    assert HintEncoder(3, 8).to(torch.bfloat16)(torch.rand(1, 3, 16, 16)).dtype == torch.bfloat16
