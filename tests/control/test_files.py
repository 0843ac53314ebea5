"""Controls on disk: written for everybody, checked against bases, and never held twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tether.base import Base, ControlNet, load_base
from tether.conversion import convert
from tether.errors import TetherError

SETTINGS: dict[str, Any] = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 8,
}


def control_for(**changes: Any) -> ControlNet:
    return ControlNet.from_unet(UNet2DConditionModel(**(SETTINGS | {"cross_attention_dim": 32} | changes)))


def base_with(base: Base, name: str, **changes: Any) -> Base:
    base.unet, base.name = UNet2DConditionModel(**(SETTINGS | {"cross_attention_dim": 32} | changes)), name
    return base


def test_a_saved_control_opens_in_diffusers_with_the_same_numbers(tmp_path: Path) -> None:
    control = control_for()
    control.save(tmp_path / "canny", dtype=torch.float16)
    theirs = ControlNetModel.from_pretrained(tmp_path / "canny", torch_dtype=torch.float16)
    assert theirs.state_dict().keys() == control.state_dict().keys()
    assert all(torch.equal(tensor, control.state_dict()[name].half()) for name, tensor in theirs.state_dict().items())


def test_what_diffusers_saved_opens_here(tmp_path: Path) -> None:
    theirs = ControlNetModel.from_unet(UNet2DConditionModel(**SETTINGS, cross_attention_dim=32))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = ControlNet.load(tmp_path / "theirs")
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in theirs.state_dict().items())
    assert not any(parameter.requires_grad for parameter in ours.parameters())


def test_the_kind_comes_back_from_the_notes_whatever_the_name(tmp_path: Path) -> None:
    control = control_for()
    control.kind = "depth"
    control.save(tmp_path / "canny")
    assert ControlNet.load(tmp_path / "canny").kind == "depth"
    assert ControlNet.load(tmp_path / "canny", kind="normal").kind == "normal"


def test_saving_again_replaces_the_folder_as_a_whole(tmp_path: Path) -> None:
    control_for().save(tmp_path / "a")
    (tmp_path / "a" / "README.md").write_text("x")
    control_for().save(tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("control", "base", "message"),
    [
        (
            {"cross_attention_dim": 768},
            {"cross_attention_dim": 1024},
            "control mine has 768-wide text states (SD 1.x), base sd21 has 1024 (SD 2.x)",
        ),
        ({"cross_attention_dim": 2048}, {"cross_attention_dim": 768}, "2048-wide text states (SDXL)"),
        ({}, {"block_out_channels": (32, 96)}, "control mine adds 64 channels at skip.3, but base sd21 has 96"),
        ({}, {"layers_per_block": 2}, "control mine has 5 injection points, base sd21 has 7"),
        ({"in_channels": 9}, {}, "control mine has 9-channel latents, base sd21 has 4"),
    ],
)
def test_a_control_that_does_not_fit_is_refused_naming_both(
    control: dict[str, Any], base: dict[str, Any], message: str, tiny_base: Base
) -> None:
    loaded = control_for(**control)
    loaded.name = "mine"
    with pytest.raises(TetherError) as caught:
        loaded.check_fits(base_with(tiny_base, "sd21", **base))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_base_made_for_inpainting_takes_the_controls_of_its_kind(tiny_base: Base) -> None:
    control_for().check_fits(base_with(tiny_base, "inpainting", in_channels=9))


def test_a_control_that_does_not_fit_is_refused_when_it_is_loaded_for_a_base(tiny_base: Base, tmp_path: Path) -> None:
    control_for(cross_attention_dim=48).save(tmp_path / "a")
    with pytest.raises(TetherError, match="48-wide text states"):
        ControlNet.load(tmp_path / "a", base=tiny_base)


def test_an_untrained_control_shares_the_encoder_of_its_base(tiny_base: Base, tmp_path: Path) -> None:
    """What is equal number for number is held once; the zero convolutions are the control's own."""
    control = ControlNet.from_unet(tiny_base.unet)
    with torch.no_grad():
        control.conv_in.bias.add_(1)
    control.save(tmp_path / "untrained")
    loaded = ControlNet.load(tmp_path / "untrained", base=tiny_base)
    own = dict(tiny_base.unet.named_parameters())
    shared = {name for name, p in loaded.named_parameters() if name in own and p.data_ptr() == own[name].data_ptr()}
    expected = {name for name, _ in loaded.named_parameters() if name in own} - {"conv_in.bias"}
    assert shared == expected
    assert torch.equal(loaded.conv_in.bias, control.conv_in.bias)


@pytest.mark.parametrize("ref", ["nothing-here", "./nothing/here", "nothing.safetensors", "a b c"])
def test_nothing_at_that_name_is_said_in_one_line(ref: str) -> None:
    with pytest.raises(TetherError, match="no control") as caught:
        ControlNet.load(ref)
    assert len(str(caught.value).splitlines()) == 1


def test_the_folder_of_a_base_model_is_not_a_control(tiny_folder: Path) -> None:
    with pytest.raises(TetherError, match="expected a ControlNet, found a base model"):
        ControlNet.load(tiny_folder)


def test_a_base_with_controls_in_it_names_them(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "controlnet_0").mkdir()
    (tmp_path / "controlnet_1").mkdir()
    with pytest.raises(TetherError, match=r"controlnet_0 and .*controlnet_1 in it: give one of those"):
        ControlNet.load(tmp_path)


def test_saving_changes_nothing_in_memory(tmp_path: Path) -> None:
    """A loaded control's weights are mapped from its file; those that were trained since must not be read again."""
    control_for().save(tmp_path / "a")
    control = ControlNet.load(tmp_path / "a")
    with torch.no_grad():
        for parameter in control.parameters():
            parameter.add_(1)
    before = {name: tensor.clone() for name, tensor in control.state_dict().items()}
    control.save(tmp_path / "b")
    assert [name for name, tensor in control.state_dict().items() if not torch.equal(tensor, before[name])] == []


def test_a_folder_of_other_things_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "precious.txt").write_text("x")
    with pytest.raises(TetherError, match="refusing to overwrite"):
        control_for().save(tmp_path / "models")
    assert [path.name for path in tmp_path.rglob("*")] == ["models", "precious.txt"]


def test_the_kind_is_guessed_from_the_file_before_the_folders_above_it(tmp_path: Path) -> None:
    from tether.conversion import convert

    (tmp_path / "canny-tests").mkdir()
    control_for().save(tmp_path / "mine")
    path = tmp_path / "canny-tests" / "control_v11e_sd15_shuffle.safetensors"
    convert(tmp_path / "mine", path, to="released")
    assert ControlNet.load(path).kind == "shuffle"


@pytest.mark.parametrize("prefix", ["", "control_model.", "module.control_model.", "controlnet."])
def test_stray_tensors_beside_a_control_are_left_out_with_a_note(
    prefix: str, tiny_base: Base, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    control = ControlNet.from_base(tiny_base)
    if prefix == "controlnet.":
        names = control.state_dict()
    else:
        control.save(tmp_path / "control")
        convert(tmp_path / "control", tmp_path / "plain.safetensors", to="original")
        names = load_file(tmp_path / "plain.safetensors")
    tensors = {prefix + name.removeprefix("control_model."): tensor.clone() for name, tensor in names.items()}
    metadata = {} if prefix == "controlnet." else safe_open(tmp_path / "plain.safetensors", "pt").metadata()
    save_file(
        tensors | {"global_step": torch.ones(1), "ema.x": torch.ones(2)}, tmp_path / "canny.safetensors", metadata
    )
    opened = ControlNet.load(tmp_path / "canny.safetensors", base=tiny_base if prefix != "controlnet." else None)
    assert "left out: 2 tensors that no network uses" in caplog.text
    for name, tensor in control.state_dict().items():
        assert torch.equal(opened.state_dict()[name], tensor), name


@pytest.mark.parametrize("own", ["control_scales", "middle_block.0.x", "scale"])
def test_a_tensor_that_would_change_a_control_is_refused(own: str, tiny_base: Base, tmp_path: Path) -> None:
    ControlNet.from_base(tiny_base).save(tmp_path / "control")
    convert(tmp_path / "control", tmp_path / "plain.safetensors", to="original")
    tensors = load_file(tmp_path / "plain.safetensors") | {f"control_model.{own}": torch.ones(3)}
    save_file(tensors, tmp_path / "a.safetensors", safe_open(tmp_path / "plain.safetensors", "pt").metadata())
    with pytest.raises(TetherError, match="holds 1 tensors that do not belong"):
        ControlNet.load(tmp_path / "a.safetensors")


def test_the_control_in_a_pipelines_folder_opens(tiny_base: Base, tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "pipeline")
    control = ControlNet.from_base(tiny_base)
    control.kind = "canny"
    control.save(tmp_path / "pipeline" / "controlnet")
    assert ControlNet.load(tmp_path / "pipeline", base=tiny_base).kind == "canny"
    convert(tmp_path / "pipeline", tmp_path / "copy", to="diffusers")
    assert (tmp_path / "copy" / "unet").is_dir()
    assert load_base(tmp_path / "pipeline").family == "custom"
