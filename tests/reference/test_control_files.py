"""Controls as they were released, in every form; see test_base_files.py."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils as oracle
from safetensors.torch import save_file

from tether.base import ControlNet, UNetDenoiser, load_base, noise_process
from tether.base.single_file import parts_of_file
from tether.control.files import control_of
from tether.conversion import convert
from tether.errors import TetherError

from .layouts import (
    EXPECTED_UNET,
    SCHEDULE,
    SMALL,
    TRUE,
    WORDS,
    below,
    hollow,
    numbers,
    same,
)


def control_base(family: str) -> Any:
    """A stand-in with the small denoiser of a family."""
    from diffusers import UNet2DConditionModel

    parts = SMALL[family].denoiser
    settings: dict[str, Any] = {
        "block_out_channels": tuple(parts.width * m for m in parts.mult),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": parts.layers,
        "cross_attention_dim": parts.context,
        "attention_head_dim": 8,
    }
    unet = UNet2DConditionModel(**settings)
    return SimpleNamespace(name="stand-in", denoiser=UNetDenoiser(unet, noise_process({})))


@pytest.mark.parametrize("family", TRUE)
@pytest.mark.parametrize("prefix", ["control_model.", ""])
def test_a_control_of_true_size_is_recognised_and_every_tensor_is_used(
    family: str, prefix: str, tmp_path: Path
) -> None:
    shapes = TRUE[family].denoiser.control()
    part = control_of(hollow(tmp_path / "control_v11p_sd15_canny.safetensors", below(prefix, shapes)))
    assert len(part.tensors) == len(shapes)
    assert sum(t.numel() for t in part.tensors.values()) == sum(torch.Size(s).numel() for s in shapes.values())
    assert WORDS[family] in part.words
    assert part.kind == "canny"
    assert part.config["conditioning_embedding_out_channels"] == [16, 32, 96, 256]
    names = [name for name in EXPECTED_UNET[family] if name != "up_block_types"]
    assert {name: part.config[name] for name in names} == {name: EXPECTED_UNET[family][name] for name in names}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_broken_number_in_a_single_file_is_refused_by_name(bad: float, tmp_path: Path) -> None:
    base, control = numbers(SMALL["sd1"].base()), numbers(SMALL["sd1"].denoiser.control())
    base["model.diffusion_model.input_blocks.0.0.weight"][0, 0, 1, 1] = bad
    control["zero_convs.0.0.weight"][0, 0] = bad
    save_file(base, tmp_path / "base.safetensors")
    save_file(control, tmp_path / "control.safetensors")
    with pytest.raises(TetherError, match=r"conv_in\.weight contains NaN or infinity"):
        load_base(tmp_path / "base.safetensors")
    with pytest.raises(TetherError, match=r"controlnet_down_blocks\.0\.weight contains NaN or infinity"):
        ControlNet.load(tmp_path / "control.safetensors")


def test_a_small_control_for_sdxl_has_no_transformer_and_opens(tmp_path: Path) -> None:
    """As `diffusers/controlnet-canny-sdxl-1.0-small`: residual layers alone, and one of them in the middle."""
    whole = TRUE["sdxl"].denoiser.control()
    middle = ("middle_block.1.", "middle_block.2.")
    released = {n: s for n, s in whole.items() if "transformer_blocks" not in n and not n.startswith(middle)}
    released = {n: s for n, s in released.items() if not re.match(r"input_blocks\.\d+\.1\.", n)}
    part = control_of(hollow(tmp_path / "canny_small.safetensors", released))
    assert len(part.tensors) == len(released)
    assert part.config["mid_block_type"] == "UNetMidBlock2D"
    assert set(part.config["down_block_types"]) == {"DownBlock2D"}
    assert part.config["cross_attention_dim"] == 2048
    again = {name: tuple(tensor.shape) for name, tensor in part.tensors.items()}
    assert control_of(hollow(tmp_path / "diffusers.safetensors", again)).config == part.config


def test_folders_above_a_file_say_nothing_of_its_kind(tmp_path: Path) -> None:
    (tmp_path / "shuffle").mkdir()
    save_file(numbers(SMALL["sd1"].denoiser.control()), tmp_path / "shuffle" / "mine.safetensors")
    control = ControlNet.load(tmp_path / "shuffle" / "mine.safetensors")
    assert control.kind is None
    assert not control.pools_globally


def test_the_autoencoders_file_of_a_diffusers_folder_opens(tmp_path: Path) -> None:
    save_file(numbers(SMALL["sd1"].base()), tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "folder", to="diffusers")
    file = tmp_path / "folder" / "vae" / "diffusion_pytorch_model.safetensors"
    base = load_base(tmp_path / "a.safetensors", vae=file)
    same(base.vae.state_dict(), load_base(tmp_path / "folder").vae.state_dict())
    file.rename(tmp_path / "alone.safetensors")
    with pytest.raises(TetherError, match=r"config\.json"):
        load_base(tmp_path / "a.safetensors", vae=tmp_path / "alone.safetensors")


def test_the_whole_control_with_its_base_inside_opens(tmp_path: Path) -> None:
    shapes = below("control_model.", TRUE["sd1"].denoiser.control()) | TRUE["sd1"].base()
    path = hollow(tmp_path / "control_sd15_openpose.safetensors", shapes | dict.fromkeys(SCHEDULE, (1000,)))
    part = control_of(path)
    assert len(part.tensors) == 340
    assert part.kind == "openpose"
    assert parts_of_file(path).family == "sd1"


@pytest.mark.parametrize("family", SMALL)
def test_diffusers_own_converter_puts_every_tensor_of_a_control_where_tether_does(family: str, tmp_path: Path) -> None:
    tensors = numbers(below("control_model.", SMALL[family].denoiser.control()))
    save_file(tensors, tmp_path / "a.safetensors")
    ours = ControlNet.load(tmp_path / "a.safetensors")
    theirs = oracle.convert_controlnet_checkpoint(
        {name: tensor.clone() for name, tensor in tensors.items()}, {"layers_per_block": 1}
    )
    if family == "sdxl":  # of which diffusers' converter knows nothing in a control
        for k, layer in ((0, "linear_1"), (2, "linear_2")):
            for kind in ("weight", "bias"):
                theirs[f"add_embedding.{layer}.{kind}"] = tensors[f"control_model.label_emb.0.{k}.{kind}"]
    same(ours.state_dict(), theirs)


def test_every_released_form_of_a_control_gives_the_same_control(tmp_path: Path) -> None:
    """Whole, pruned, without prefix, under "state_dict", and as one file of diffusers' names."""
    control = numbers(SMALL["sd1"].denoiser.control())
    base = numbers(SMALL["sd1"].base(), seed=1)
    prefixed = {f"control_model.{name}": tensor for name, tensor in control.items()}
    torch.save(prefixed | base, tmp_path / "control_sd15_canny.pth")
    torch.save(prefixed, tmp_path / "pruned.pth")
    torch.save({"state_dict": prefixed}, tmp_path / "pruned.ckpt")
    save_file(control, tmp_path / "bare.safetensors")
    expected = oracle.convert_controlnet_checkpoint({k: v.clone() for k, v in control.items()}, {"layers_per_block": 1})
    save_file({name: tensor.contiguous() for name, tensor in expected.items()}, tmp_path / "diffusers.safetensors")
    for name in ("control_sd15_canny.pth", "pruned.pth", "pruned.ckpt", "bare.safetensors", "diffusers.safetensors"):
        same(ControlNet.load(tmp_path / name).state_dict(), expected)


def test_a_difference_file_needs_its_base_and_is_the_sum_of_both(tmp_path: Path) -> None:
    base = control_base("sd1")
    control = numbers(SMALL["sd1"].denoiser.control())
    expected = oracle.convert_controlnet_checkpoint({k: v.clone() for k, v in control.items()}, {"layers_per_block": 1})
    own = base.denoiser.network.state_dict()
    difference = {}
    for released, tensor in control.items():
        name = next(n for n, t in expected.items() if t.shape == tensor.shape and torch.equal(t, tensor))
        difference[f"control_model.{released}"] = (tensor - own[name] if name in own else tensor).half()
    save_file(difference | {"difference": torch.tensor(1.0)}, tmp_path / "diff_canny_fp16.safetensors")
    with pytest.raises(TetherError, match="difference"):
        ControlNet.load(tmp_path / "diff_canny_fp16.safetensors")
    summed = ControlNet.load(tmp_path / "diff_canny_fp16.safetensors", base=base).state_dict()
    assert summed.keys() == expected.keys()
    for name, tensor in summed.items():
        # Two roundings to float16: of the difference, and of the sum.
        bound = (tensor.abs().max() + (own[name].abs().max() if name in own else 0)) * 2**-10
        assert (tensor - expected[name]).abs().max() <= bound


def test_shuffle_pools_over_space_and_the_others_do_not(tmp_path: Path) -> None:
    shapes = below("control_model.", SMALL["sd1"].denoiser.control())
    for name, pools in (("control_v11e_sd15_shuffle", True), ("control_v11f1e_sd15_tile", False)):
        part = control_of(hollow(tmp_path / f"{name}.safetensors", shapes))
        assert part.settings["global_pool_conditions"] is pools


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_diffusers_opens_the_same_file_of_true_size(family: str, tmp_path: Path) -> None:
    """diffusers' own single-file reader and Tether's agree on a control of true size, with random numbers."""
    from diffusers import ControlNetModel

    tensors = {name: tensor.half() for name, tensor in numbers(TRUE[family].denoiser.control()).items()}
    save_file(tensors, tmp_path / "a.safetensors")
    ours = ControlNet.load(tmp_path / "a.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = ControlNetModel.from_config(ours.config)
    theirs.load_state_dict(
        oracle.convert_controlnet_checkpoint({k: v.float() for k, v in tensors.items()}, {"layers_per_block": 2})
    )
    same(ours.state_dict(), theirs.state_dict())
