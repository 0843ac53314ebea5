"""What a file contains is decided by its tensors, and what it does not support is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tether.base import load_base
from tether.base.single_file import parts_of_file
from tether.errors import TetherError
from tether.files.checkpoints import Checkpoint
from tether.formats.recognize import recognize

from ..reference.layouts import (
    SMALL,
    Denoiser,
    Family,
    Shapes,
    autoencoder,
    below,
    hollow,
    numbers,
)

LAST_BIAS = "model.diffusion_model.output_blocks.3.1.transformer_blocks.0.norm1.bias"


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight": (4, 4)}, "Stable Diffusion 3"),
        ({"double_blocks.0.img_attn.qkv.weight": (4, 4)}, "Flux"),
        ({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 4)}, "LoRA"),
        ({"emb_params": (2, 768)}, "textual-inversion"),
        ({"lora_controlnet": (), "input_hint_block.0.weight": (4, 4)}, "Control-LoRA"),
        (
            {
                "model.diffusion_model.joint_blocks.0.x.weight": (4, 4),
                "text_encoders.clip_g.transformer.text_model.x.weight": (4, 4),
            },
            "Stable Diffusion 3",
        ),
        ({"clip_g": (2, 1280), "clip_l": (2, 768)}, "textual-inversion"),
        ({"body.0.block1.weight": (4, 4), "conv_in.weight": (4, 4)}, "T2I-Adapter"),
        ({"lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.down.0.weight": (4, 4)}, "ControlLLLite"),
        ({"image_proj.proj.weight": (4, 4), "ip_adapter.1.to_k_ip.weight": (4, 4)}, "IP-Adapter"),
        ({"layers.0.weight": (4, 4)}, "of an unknown model"),
        (below("first_stage_model.", autoencoder(32, (1, 1))), "autoencoder alone"),
        (
            below("model.diffusion_model.", SMALL["sd1"].denoiser.unet()),
            "found the denoiser of .* without a text",
        ),
        (below("control_model.", SMALL["sd1"].denoiser.control()), "expected a base model, found a ControlNet"),
    ],
)
def test_other_models_are_refused_by_name(shapes: Shapes, message: str, tmp_path: Path) -> None:
    with pytest.raises(TetherError, match=message) as caught:
        load_base(hollow(tmp_path / "a.safetensors", shapes))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("metadata", "spread", "asked", "expected"),
    [
        ({"modelspec.prediction_type": "v"}, 0.0, None, "v_prediction"),
        ({"modelspec.prediction_type": "epsilon"}, 0.2, None, "epsilon"),
        ({}, 0.2, None, "v_prediction"),
        ({}, 0.02, None, "epsilon"),
        ({}, 0.02, "v_prediction", "v_prediction"),
    ],
)
def test_what_sd2_predicts_is_read_from_the_file_unless_given(
    metadata: dict[str, str], spread: float, asked: str | None, expected: str, tmp_path: Path
) -> None:
    tensors = {name: tensor.half() for name, tensor in numbers(SMALL["sd2"].base()).items()}
    bias = torch.ones_like(tensors[LAST_BIAS])
    bias[::2] = -1
    tensors[LAST_BIAS] = bias * spread
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    parts = parts_of_file(tmp_path / "a.safetensors", prediction_type=asked)
    assert parts.scheduler["prediction_type"] == expected
    # 2.x that predicts velocity was trained on 768 pixels, the others on 512.
    assert parts.unet.network.config["sample_size"] == (96 if expected == "v_prediction" else 64)  # type: ignore[index]


@pytest.mark.parametrize(("step", "expected"), [(110_000, "v_prediction"), (220_000, "epsilon"), (875_000, "epsilon")])
def test_stabilitys_own_sd2_files_are_known_by_their_step(step: int, expected: str, tmp_path: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in numbers(SMALL["sd2"].base()).items()}
    torch.save({"global_step": step, "state_dict": tensors}, tmp_path / "a.ckpt")
    assert parts_of_file(tmp_path / "a.ckpt").scheduler["prediction_type"] == expected


@pytest.mark.parametrize("step", [float("nan"), float("inf")])
def test_a_step_that_is_no_number_is_passed_over(step: float, tmp_path: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in numbers(SMALL["sd2"].base()).items()}
    torch.save({"global_step": step, "state_dict": tensors}, tmp_path / "a.ckpt")
    assert parts_of_file(tmp_path / "a.ckpt").scheduler["prediction_type"] == "epsilon"


@pytest.mark.parametrize("mark", ["edm_vpred.sigma_max", "edm_mean"])
def test_a_model_of_another_noise_schedule_is_refused_by_name(mark: str, tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="a model with EDM's noise schedule"):
        parts_of_file(hollow(tmp_path / "a.safetensors", SMALL["sdxl"].base() | {mark: ()}))


def test_inpainting_bases_are_recognized(tmp_path: Path) -> None:
    family = Family(
        Denoiser(width=32, mult=(1, 2), layers=1, depth=(1, 0), context=64, inputs=9), 64, 1, vae=(32, (1,))
    )
    parts = parts_of_file(hollow(tmp_path / "a.safetensors", family.base()))
    assert parts.unet.config["in_channels"] == 9
    assert "for inpainting" in parts.words


def checkpoint(*parts: Shapes) -> Checkpoint:
    shapes = {name: shape for part in parts for name, shape in part.items()}
    return Checkpoint(Path("a.pth"), {name: torch.empty(shape, device="meta") for name, shape in shapes.items()})


@pytest.mark.parametrize("family", SMALL)
def test_of_a_file_with_both_the_wanted_one_is_taken_and_the_control_by_default(family: str) -> None:
    base, control = SMALL[family].base(), below("control_model.", SMALL[family].denoiser.control())
    whole = checkpoint(base, control)
    found = [recognize(whole), recognize(whole, "control"), recognize(whole, "base"), recognize(checkpoint(base))]
    assert [one.what for one in found] == ["control", "control", "base", "base"]
    assert {one.family for one in found} == {family}
    assert found[0].words == f"ControlNet for {found[2].words}"
    assert found[0].shape == found[2].shape


def test_a_base_is_no_control() -> None:
    with pytest.raises(TetherError, match=r"cannot open a\.pth: expected a ControlNet, found a base model"):
        recognize(checkpoint(SMALL["sd1"].base()), "control")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (below("cond_stage_model.model.", {"token_embedding.weight": (8, 8)}), "it is a Stable unCLIP"),
        ({"conditioner.embedders.0.model.token_embedding.weight": (8, 8)}, "it is the refiner of Stable Diffusion XL"),
        (
            {
                "conditioner.embedders.0.open_clip.model.token_embedding.weight": (8, 8),
                "model.diffusion_model.input_blocks.1.1.time_stack.0.norm1.weight": (8,),
            },
            "is Stable Video Diffusion",
        ),
    ],
)
def test_relatives_of_sdxl_are_refused_by_name(shapes: Shapes, message: str) -> None:
    unet = below("model.diffusion_model.", SMALL["sdxl"].denoiser.unet())
    with pytest.raises(TetherError, match=message):
        recognize(checkpoint(unet, shapes), "base")


def test_the_two_tables_of_an_ip_adapter_are_named(tmp_path: Path) -> None:
    tables = {"image_proj": {"proj.weight": torch.ones(4, 4)}, "ip_adapter": {"1.to_k_ip.weight": torch.ones(4, 4)}}
    torch.save(tables, tmp_path / "ip-adapter_sd15.bin")
    with pytest.raises(TetherError, match="is an IP-Adapter"):
        load_base(tmp_path / "ip-adapter_sd15.bin")
