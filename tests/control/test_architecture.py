"""The parts and the configuration of a ControlNet, from a U-Net or a config."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from torch import nn

from tether.control.architecture import (
    ENCODER_PARTS,
    assemble,
    build,
    check_same_parameters,
    complete,
    config_of_unet,
    skip_channels,
)
from tether.errors import TetherError
from tether.formats.shape import default_settings


def test_the_assembled_parts_have_the_names_and_shapes_of_diffusers():
    with torch.device("meta"):
        model = build({"cross_attention_dim": 768})
        parts = assemble(model, complete(model, {}))
    ours = nn.ModuleDict({name: part for name, part in parts.items() if part is not None}).state_dict()
    theirs = model.state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: t.shape for name, t in theirs.items()}


def test_encoder_parts_are_taken_over_and_not_copied(make_unet):
    unet = make_unet()
    parts = assemble(unet, complete(build(config_of_unet(unet)), {}))
    assert all(parts[name] is getattr(unet, name, None) for name in ENCODER_PARTS)


def test_skip_connections_of_stable_diffusion_have_the_published_channels():
    with torch.device("meta"):
        assert skip_channels(build({})) == (320,) * 4 + (640,) * 3 + (1280,) * 5


def test_a_complete_config_has_every_setting_and_survives_json():
    model = build({"block_out_channels": (32, 64), "down_block_types": ("DownBlock2D",) * 2})
    config = complete(model, {"hint": "paper"})
    assert default_settings(ControlNetModel).keys() <= config.keys()
    assert json.loads(json.dumps(config)) == config
    assert config["hint"] == "paper"
    assert "hint" not in complete(model, {"hint": "released"})
    assert ControlNetModel.from_config(config).config["block_out_channels"] == [32, 64]


def test_a_setting_that_a_control_net_cannot_express_is_refused_by_name(make_unet):
    with pytest.raises(TetherError, match="cannot control a U-Net with center_input_sample=True"):
        config_of_unet(make_unet(center_input_sample=True))


def test_layers_that_the_configuration_does_not_describe_are_refused(make_unet):
    unet, other = make_unet(), make_unet()
    other.conv_in.lora = nn.Linear(2, 2)
    check_same_parameters(unet, unet)
    with pytest.raises(TetherError, match=r"does not describe conv_in\.lora.*remove adapters"):
        check_same_parameters(other, unet)
