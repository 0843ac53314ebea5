"""Section 3.2, figure 3: the trainable copy, its zero convolutions and the locked denoiser."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from tether.base.denoiser import UNetDenoiser
from tether.base.noise import noise_process
from tether.control import Conditioning, ControlNet, Signal
from tether.errors import TetherError

DIFFUSERS_FAMILIES = ["sd1", "sd2", "sdxl", "bundled", "inpainting", "class labels"]
ALL_FAMILIES = [*DIFFUSERS_FAMILIES, "projected text"]
HINT_CHANNELS = (4, 4, 8, 8)


def condition_for(inputs: dict[str, Any]) -> Tensor:
    batch, _, height, width = inputs["latents"].shape
    condition = torch.rand(batch, 3, 8 * height, 8 * width, generator=torch.Generator().manual_seed(2))
    return condition.to(inputs["latents"].dtype)


def doubled(inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs in float64, so that two implementations must agree far beyond float32's rounding."""
    conditioning = inputs["conditioning"].to(dtype=torch.float64)
    extras = {k: v.double() if v.is_floating_point() else v for k, v in conditioning.extras.items()}
    return inputs | {"latents": inputs["latents"].double(), "conditioning": conditioning.with_extras(**extras)}


def predict(unet: UNet2DConditionModel, signal: Signal | None = None, **inputs: Any) -> Tensor:
    return UNetDenoiser(unet, noise_process({})).predict(signal=signal, **inputs)


def state_of(module: nn.Module) -> dict[str, bytes]:
    return {key: value.numpy().tobytes() for key, value in module.state_dict().items()}


def signal_of(control: ControlNet, inputs: dict[str, Any]) -> Signal:
    return control(hint=control.encode(condition_for(inputs)), **inputs)


def as_signal(down: Sequence[Tensor], middle: Tensor) -> Signal:
    """What diffusers' ControlNet returns, as a `Signal`."""
    return Signal({f"skip.{k}": tensor for k, tensor in enumerate(down)} | {"middle": middle})


def diffusers_signal(model: ControlNetModel, inputs: dict[str, Any], **settings: Any) -> Signal:
    conditioning = inputs["conditioning"]
    added = dict(conditioning.extras)
    if conditioning.pooled is not None:
        added["text_embeds"] = conditioning.pooled
    down, middle = model(
        inputs["latents"],
        inputs["timestep"],
        conditioning.tokens,
        condition_for(inputs),
        class_labels=added.pop("class_labels", None),
        added_cond_kwargs=added,
        return_dict=False,
        **settings,
    )
    return as_signal(down, middle)


def assert_same(ours: Signal, theirs: Signal, tolerance: float = 1e-10) -> None:
    assert list(ours) == list(theirs)
    for point, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[point].expand_as(tensor), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("family", ALL_FAMILIES)
@pytest.mark.parametrize("hint", ["released", "paper"])
@torch.no_grad()
def test_a_fresh_control_leaves_the_bases_output_bit_identical(family, hint, make_unet, make_inputs):
    unet = make_unet(family)
    inputs = make_inputs(unet)
    control = ControlNet.from_unet(unet, hint=hint, hint_channels=HINT_CHANNELS)
    signal = signal_of(control, inputs)
    assert not any(tensor.any() for tensor in signal.values())
    base = predict(unet, **inputs)
    assert torch.equal(predict(unet, signal=signal, **inputs), base)
    conditioning = inputs["conditioning"]
    added = {"text_embeds": conditioning.pooled, **conditioning.extras}
    labels = added.pop("class_labels", None)
    bare = unet(inputs["latents"], inputs["timestep"], conditioning.tokens, labels, added_cond_kwargs=added)
    assert torch.equal(bare.sample, base)


@pytest.mark.parametrize("family", ALL_FAMILIES)
@torch.no_grad()
def test_a_trained_control_changes_the_output(family, make_unet, make_inputs, randomize):
    unet = make_unet(family)
    inputs = make_inputs(unet)
    control = ControlNet.from_unet(unet, hint_channels=HINT_CHANNELS)
    randomize(control)
    signal = signal_of(control, inputs)
    assert all(tensor.any() for tensor in signal.values())
    changed = predict(unet, signal=signal, **inputs)
    assert (changed - predict(unet, **inputs)).abs().max() > 1e-3


@pytest.mark.parametrize("family", DIFFUSERS_FAMILIES)
@torch.no_grad()
def test_state_dicts_interchange_with_diffusers_and_residuals_agree(family, make_unet, make_inputs, randomize):
    unet = make_unet(family)
    inputs = doubled(make_inputs(unet))
    ours = ControlNet.from_unet(unet.double(), hint_channels=HINT_CHANNELS)
    randomize(ours)
    theirs = ControlNetModel.from_config(ours.config).double()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    expected = diffusers_signal(theirs, inputs)
    assert_same(signal_of(ours, inputs), expected)

    back = ControlNet.from_config(theirs.config).double()
    back.load_state_dict(theirs.state_dict(), strict=True)
    assert_same(signal_of(back, inputs), expected)


@pytest.mark.parametrize("family", DIFFUSERS_FAMILIES)
def test_copy_holds_what_diffusers_from_unet_holds(family, make_unet):
    unet = make_unet(family)
    ours = ControlNet.from_unet(unet).state_dict()
    theirs = ControlNetModel.from_unet(unet).state_dict()
    assert ours.keys() == theirs.keys()
    for key in ours:
        if not key.startswith("controlnet_cond_embedding"):  # the one part that is random in both
            assert torch.equal(ours[key], theirs[key]), key


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_config_survives_json_and_rebuilds_the_same_parameters(family, make_unet):
    control = ControlNet.from_unet(make_unet(family), hint="paper", hint_channels=HINT_CHANNELS)
    config = json.loads(json.dumps(control.config))
    again = ControlNet.from_config(config)
    shapes = [{key: value.shape for key, value in c.state_dict().items()} for c in (control, again)]
    assert shapes[0] == shapes[1]
    assert json.loads(json.dumps(again.config)) == config
    assert again.controlnet_cond_embedding.variant == "paper"
    assert ControlNetModel.from_config(config).config["block_out_channels"] == config["block_out_channels"]


def test_stable_diffusion_has_13_zero_convolutions_at_the_published_sizes():
    with torch.device("meta"):
        control = ControlNet.from_config({"cross_attention_dim": 768})
        text = Conditioning(torch.empty(1, 77, 768))
        hint = control.encode(torch.empty(1, 3, 512, 512))
        signal = control(torch.empty(1, 4, 64, 64), torch.tensor(1), text, hint)
    zeros = [*control.controlnet_down_blocks, control.controlnet_mid_block]
    assert len(zeros) == 13
    assert {zero.kernel_size for zero in zeros} == {(1, 1)}
    assert [zero.out_channels for zero in zeros] == [320] * 4 + [640] * 3 + [1280] * 6
    assert signal.heights == (64, 64, 64, 32, 32, 32, 16, 16, 16, 8, 8, 8, 8)
    # 361,279,120 is the parameter count of the released SD 1.5 ControlNets.
    assert sum(parameter.numel() for parameter in control.parameters()) == 361_279_120


def test_meta_control_takes_weights_without_ever_being_initialised(make_unet, make_inputs, randomize):
    unet = make_unet("sdxl")
    inputs = make_inputs(unet)
    control = ControlNet.from_unet(unet, hint_channels=HINT_CHANNELS)
    randomize(control)
    with torch.device("meta"):
        empty = ControlNet.from_config(control.config)
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}
    empty.load_state_dict(control.state_dict(), strict=True, assign=True)
    assert_same(signal_of(empty, inputs), signal_of(control, inputs), tolerance=1e-5)


def test_the_denoiser_is_neither_changed_nor_shared(make_unet, make_inputs):
    unet = make_unet("sd1")
    before = state_of(unet)
    flags = [(name, p.requires_grad) for name, p in unet.named_parameters()]
    modes = [(name, module.training) for name, module in unet.named_modules()]
    inputs = make_inputs(unet)
    control = ControlNet.from_unet(unet, hint_channels=HINT_CHANNELS)
    assert not {p.data_ptr() for p in unet.parameters()} & {p.data_ptr() for p in control.parameters()}
    assert all(parameter.requires_grad for parameter in control.parameters())
    assert all(module.training for module in control.modules())

    optimizer = torch.optim.SGD(control.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        predict(unet, signal=signal_of(control, inputs), **inputs).square().mean().backward()
        optimizer.step()
    assert not any(parameter.grad is not None for parameter in unet.parameters())
    assert state_of(unet) == before
    assert [(name, p.requires_grad) for name, p in unet.named_parameters()] == flags
    assert [(name, module.training) for name, module in unet.named_modules()] == modes


def test_gradients_reach_the_zero_convolutions_first_and_the_copy_and_the_hint_later(make_unet, make_inputs):
    unet = make_unet("sd1")
    inputs = make_inputs(unet)
    control = ControlNet.from_unet(unet, hint_channels=HINT_CHANNELS)
    optimizer = torch.optim.SGD(control.parameters(), lr=0.1)
    reached = []
    for _ in range(3):
        optimizer.zero_grad()
        predict(unet, signal=signal_of(control, inputs), **inputs).square().mean().backward()
        reached.append({name for name, p in control.named_parameters() if p.grad is not None and p.grad.any()})
        optimizer.step()
    zeros = {name for name in control.state_dict() if name.startswith(("controlnet_down", "controlnet_mid"))}
    hint_out = {f"controlnet_cond_embedding.conv_out.{name}" for name in ("weight", "bias")}
    assert reached[0] == zeros
    assert {"conv_in.weight", "time_embedding.linear_1.weight"} | hint_out <= reached[1]
    assert "controlnet_cond_embedding.conv_in.weight" not in reached[1]
    assert "controlnet_cond_embedding.conv_in.weight" in reached[2]


def figure_3(control: ControlNet, inputs: dict[str, Any]) -> list[Tensor]:
    """ControlNet's forward for Stable Diffusion, written from the figure: nothing but layers and loops."""
    p = dict(control.named_parameters())
    t, c_t = inputs["timestep"].float(), inputs["conditioning"].tokens

    half = control.conv_in.out_channels // 2
    angles = t[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / half)
    embedding = torch.cat([angles.cos(), angles.sin()], dim=1)
    embedding = embedding @ p["time_embedding.linear_1.weight"].T + p["time_embedding.linear_1.bias"]
    embedding = embedding / (1 + torch.exp(-embedding))
    embedding = embedding @ p["time_embedding.linear_2.weight"].T + p["time_embedding.linear_2.bias"]

    feature = condition_for(inputs)
    encoder = control.controlnet_cond_embedding
    for conv in (encoder.conv_in, *encoder.blocks):
        feature = nn.functional.silu(conv(feature))
    x = control.conv_in(inputs["latents"]) + encoder.conv_out(feature)

    outputs = [x]
    for block in control.down_blocks:
        for number, resnet in enumerate(block.resnets):
            x = resnet(x, embedding)
            if hasattr(block, "attentions"):
                x = block.attentions[number](x, encoder_hidden_states=c_t, return_dict=False)[0]
            outputs.append(x)
        for downsampler in block.downsamplers or []:
            x = downsampler(x)
            outputs.append(x)
    x = control.mid_block.resnets[0](x, embedding)
    x = control.mid_block.attentions[0](x, encoder_hidden_states=c_t, return_dict=False)[0]
    outputs.append(control.mid_block.resnets[1](x, embedding))

    zeros = [f"controlnet_down_blocks.{number}" for number in range(12)] + ["controlnet_mid_block"]
    return [
        torch.einsum("oi,bihw->bohw", p[f"{zero}.weight"][:, :, 0, 0], output) + p[f"{zero}.bias"][None, :, None, None]
        for zero, output in zip(zeros, outputs, strict=True)
    ]


@pytest.mark.parametrize("family", ["sd1", "sd2"])
@torch.no_grad()
def test_residuals_agree_with_figure_3_written_out(family, make_unet, make_inputs, randomize):
    unet = make_unet(family)
    inputs = make_inputs(unet)
    control = ControlNet.from_unet(unet, hint_channels=HINT_CHANNELS)
    randomize(control)
    expected = figure_3(control, inputs)
    assert len(expected) == 13
    for ours, plain in zip(signal_of(control, inputs).values(), expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_each_residual_is_added_to_its_own_skip_and_the_middle(make_unet, make_inputs, randomize):
    """Hooks add the residuals to what the decoder takes; the result must be that of `UNetDenoiser.predict`."""
    unet = make_unet("sd1")
    inputs = make_inputs(unet)
    control = ControlNet.from_unet(unet, hint_channels=HINT_CHANNELS)
    randomize(control)
    signal = signal_of(control, inputs)
    controlled = predict(unet, signal=signal, **inputs)

    left = [tensor for point, tensor in signal.items() if point != "middle"]

    def add_to_skips(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        skips = [
            skip + left[i - len(kwargs["res_hidden_states_tuple"])]
            for i, skip in enumerate(kwargs["res_hidden_states_tuple"])
        ]
        del left[-len(skips) :]
        return args, kwargs | {"res_hidden_states_tuple": tuple(skips)}

    for block in unet.up_blocks:
        block.register_forward_pre_hook(add_to_skips, with_kwargs=True)
    unet.mid_block.register_forward_hook(lambda module, args, output: output + signal["middle"])
    assert torch.equal(predict(unet, **inputs), controlled)
    assert not left


@torch.no_grad()
def test_global_pooling_averages_residuals_over_space_as_diffusers_does(make_unet, make_inputs, randomize):
    unet = make_unet("bundled")
    inputs = doubled(make_inputs(unet))
    ours = ControlNet.from_unet(unet.double(), hint_channels=HINT_CHANNELS, global_pool_conditions=True)
    randomize(ours)
    theirs = ControlNetModel.from_config(ours.config).double()
    theirs.load_state_dict(ours.state_dict())
    signal = signal_of(ours, inputs)
    assert_same(signal, diffusers_signal(theirs, inputs))
    assert signal.heights == (16, 16, 8, 8, 4, 4, 4)
    assert all(torch.equal(r, r[:, :, :1, :1].expand_as(r)) for r in signal.values())
    assert ours.pools_globally


@torch.no_grad()
def test_bgr_controls_see_their_channels_turned_round(make_unet):
    config = ControlNet.from_unet(make_unet(), hint_channels=HINT_CHANNELS).config
    rgb = ControlNet.from_config(config)
    nn.init.normal_(rgb.controlnet_cond_embedding.conv_out.weight)
    bgr = ControlNet.from_config(config | {"controlnet_conditioning_channel_order": "bgr"})
    bgr.load_state_dict(rgb.state_dict())
    condition = torch.rand(1, 3, 16, 16)
    assert torch.equal(bgr.encode(condition), rgb.encode(condition[:, [2, 1, 0]]))


def test_gradient_checkpointing_runs_layers_again_and_gives_the_same_gradients(make_unet, make_inputs, randomize):
    unet = make_unet("sd1")
    inputs = make_inputs(unet)
    control = ControlNet.from_unet(unet, hint_channels=HINT_CHANNELS)
    randomize(control)
    runs: list[str] = []
    control.down_blocks[0].resnets[0].conv1.register_forward_hook(lambda *_: runs.append("down"))
    control.mid_block.resnets[1].conv1.register_forward_hook(lambda *_: runs.append("middle"))

    def gradients() -> list[Tensor]:
        control.zero_grad()
        runs.clear()
        sum(tensor.square().mean() for tensor in signal_of(control, inputs).values()).backward()
        return [parameter.grad.clone() for parameter in control.parameters()]

    plain, plain_runs = gradients(), len(runs)
    control.enable_gradient_checkpointing()
    recomputed, recomputed_runs = gradients(), len(runs)
    control.disable_gradient_checkpointing()
    gradients()
    assert (plain_runs, recomputed_runs, len(runs)) == (2, 4, 2)
    torch.testing.assert_close(recomputed, plain)


def test_control_has_the_dtype_of_its_denoiser_and_casts_what_it_is_given(make_unet, make_inputs):
    unet = make_unet().to(torch.bfloat16)
    inputs = make_inputs(unet)
    control = ControlNet.from_unet(unet, hint_channels=HINT_CHANNELS)
    signal = signal_of(control, inputs)
    assert control.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in control.parameters()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in signal.values()} == {torch.bfloat16}


@torch.no_grad()
def test_a_control_of_another_dtype_works_with_the_denoiser(make_unet, make_inputs, randomize):
    unet = make_unet()
    inputs = make_inputs(unet)
    control = ControlNet.from_unet(unet, hint_channels=HINT_CHANNELS)
    randomize(control)
    exact = predict(unet, signal=signal_of(control, inputs), **inputs)
    rounded = predict(unet, signal=signal_of(control.to(torch.bfloat16), inputs), **inputs)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("timestep", [321, 321.0, torch.tensor(321), torch.tensor([321])])
@torch.no_grad()
def test_timestep_may_be_a_number_a_scalar_or_one_an_image(timestep, make_unet, make_inputs, randomize):
    control = ControlNet.from_unet(make_unet(), hint_channels=HINT_CHANNELS)
    randomize(control)
    inputs = make_inputs(make_unet())
    each = signal_of(control, inputs | {"timestep": torch.tensor([321, 321])})
    assert_same(signal_of(control, inputs | {"timestep": timestep}), each, tolerance=1e-5)
    other = signal_of(control, inputs | {"timestep": torch.tensor([321, 5])})
    assert torch.equal(other["middle"][0], each["middle"][0])
    assert not torch.equal(other["middle"][1], each["middle"][1])


@torch.no_grad()
def test_one_hint_serves_a_whole_batch(make_unet, make_inputs, randomize):
    unet = make_unet().double()
    inputs = doubled(make_inputs(unet))
    control = ControlNet.from_unet(unet, hint_channels=HINT_CHANNELS)
    randomize(control)
    hint = control.encode(condition_for(inputs)[:1])
    assert_same(control(hint=hint, **inputs), control(hint=hint.repeat(2, 1, 1, 1), **inputs))


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"time_cond_proj_dim": 8}, "time_cond_proj_dim"),
        ({"resnet_out_scale_factor": 0.5}, "resnet_out_scale_factor"),
        ({"center_input_sample": True}, "center_input_sample"),
        ({"layers_per_block": (1, 1, 1)}, "does not describe a ControlNet"),
        ({"mid_block_type": None}, "does not describe a ControlNet"),
        ({"addition_embed_type": "image", "encoder_hid_dim": 8}, "addition_embed_type"),
    ],
)
def test_a_denoiser_whose_control_could_not_be_written_down_is_refused(changes, setting, make_unet):
    with pytest.raises(TetherError, match=setting) as error:
        ControlNet.from_unet(make_unet(**changes))
    assert "\n" not in str(error.value)


def test_a_denoiser_with_layers_its_configuration_does_not_mention_is_refused(make_unet):
    unet = make_unet()
    unet.mid_block.resnets[0].adapter = nn.Linear(2, 2)
    with pytest.raises(TetherError, match=r"mid_block\.resnets\.0\.adapter"):
        ControlNet.from_unet(unet)


def test_hint_and_text_that_do_not_fit_and_missing_conditions_are_refused(make_unet, make_inputs):
    unet = make_unet("sdxl")
    inputs = make_inputs(unet)
    control = ControlNet.from_unet(unet, hint_channels=HINT_CHANNELS)
    hint = control.encode(condition_for(inputs))
    with pytest.raises(TetherError, match="64x128 pixels"):
        control(hint=hint[..., 1:], **inputs)
    text = inputs["conditioning"]
    with pytest.raises(TetherError, match=r"width 11.* 12"):
        control(hint=hint, **(inputs | {"conditioning": replace(text, tokens=text.tokens[..., 1:])}))
    with pytest.raises(TetherError, match="needs pooled text states"):
        control(hint=hint, **(inputs | {"conditioning": replace(text, pooled=None)}))
    with pytest.raises(TetherError, match="needs time_ids"):
        control(hint=hint, **(inputs | {"conditioning": replace(text, extras={})}))


def test_residuals_of_another_denoiser_are_refused(make_unet, make_inputs):
    small, large = make_unet("bundled"), make_unet("sd1")
    control = ControlNet.from_unet(small, hint_channels=HINT_CHANNELS)
    signal = signal_of(control, make_inputs(small))
    with pytest.raises(TetherError, match="fits another denoiser"):
        predict(large, signal=signal, **make_inputs(large))


def test_a_denoiser_that_pools_its_text_runs_in_bfloat16_under_autocast():
    """As training has it: a base cast in memory, text states of float32, and a control of float32."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=4,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    control = ControlNet.from_unet(unet)
    inputs = {
        "latents": torch.randn(2, 4, 8, 8),
        "timestep": torch.tensor([3, 900]),
        "conditioning": Conditioning(torch.randn(2, 7, 32)),
    }
    expected = predict(unet, **inputs)
    unet.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        signal = control(hint=control.encode(torch.rand(2, 3, 64, 64)), **inputs)
        found = predict(unet, signal=signal, **inputs)
    assert float((found - expected).norm() / expected.norm()) < 0.05
