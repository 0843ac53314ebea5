"""Converting back restores every bit; nothing is written by halves, or over something else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tether.base import ControlNet, load_base
from tether.control.transfer import transferred
from tether.conversion import convert
from tether.errors import TetherError
from tether.formats.clip_vocabulary import clip_tokenizer
from tether.formats.families import family_settings

SMALL = {"block_out_channels": (64, 128), "layers_per_block": 1, "cross_attention_dim": 64}
BLOCKS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
LINEAR = {"use_linear_projection": True, "attention_head_dim": (1, 2)}
UNETS: dict[str, dict[str, Any]] = {
    "sd1": SMALL | BLOCKS | {"attention_head_dim": 8},
    "sd2": SMALL | BLOCKS | LINEAR,
    "sdxl": SMALL
    | LINEAR
    | {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 128,
        "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 6 * 256 + 32,
    },
}


def text_config(activation: str, projected: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=1,
        hidden_act=activation,
        projection_dim=projected,
    )


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small base of each family, written by diffusers and transformers."""
    family = request.param
    folder = tmp_path_factory.mktemp(family) / "base"
    torch.manual_seed(0)
    UNet2DConditionModel(sample_size=8, **UNETS[family]).half().save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=2,
        scaling_factor=family_settings(family)["vae"]["scaling_factor"],
    ).half().save_pretrained(folder / "vae")
    first = text_config("gelu" if family == "sd2" else "quick_gelu", 64)
    CLIPTextModel(first).half().save_pretrained(folder / "text_encoder")
    clip_tokenizer("!" if family == "sd2" else "<|endoftext|>").save_pretrained(folder / "tokenizer")
    if family == "sdxl":
        CLIPTextModelWithProjection(text_config("gelu", 32)).half().save_pretrained(folder / "text_encoder_2")
        clip_tokenizer("!").save_pretrained(folder / "tokenizer_2")
    settings = family_settings(family)
    if family == "sd2":
        settings["scheduler"]["prediction_type"] = "v_prediction"
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings["scheduler"]))
    (folder / "model_index.json").write_text(json.dumps(settings["index"]))
    return folder


@pytest.fixture
def control(tmp_path: Path) -> ControlNet:
    """A small control whose numbers are all random, as if it were trained."""
    torch.manual_seed(1)
    control = ControlNet.from_unet(UNet2DConditionModel(**UNETS["sd1"]))
    with torch.no_grad():
        for parameter in control.parameters():
            parameter.copy_(torch.randn_like(parameter))
    assert isinstance(control, ControlNet)
    control.kind, control.sides = "canny", 0.6
    return control


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name]), name


def weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder; a text encoder's under either of the names that transformers gives them."""
    found = {}
    for file in sorted(folder.glob("*/*.safetensors")):
        for name, tensor in load_file(file).items():
            found[f"{file.parent.name}.{name.removeprefix('text_model.')}"] = tensor
    return found


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
def test_a_base_comes_back_bit_for_bit(folder: Path, ending: str, tmp_path: Path) -> None:
    single, back = tmp_path / f"base{ending}", tmp_path / "back"
    convert(folder, single, to="original")
    known = "v_prediction" if folder.parent.name.startswith("sd2") else None
    convert(single, back, to="diffusers", prediction_type=known if ending == ".ckpt" else None)
    same(weights(back), weights(folder))
    schedules = [json.loads((f / "scheduler" / "scheduler_config.json").read_text()) for f in (folder, back)]
    assert schedules[0] == schedules[1]


def test_a_converted_base_is_the_base_it_was(folder: Path, tmp_path: Path) -> None:
    """The settings that no tensor has (heads, activation, scale) come back too: the outputs are the same."""
    convert(folder, tmp_path / "base.safetensors", to="original")
    one, two = load_base(folder), load_base(tmp_path / "base.safetensors")
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    texts = [base.encode_prompts(["a red (apple:1.2)"]) for base in (one, two)]
    assert torch.equal(texts[0].tokens, texts[1].tokens)
    latents = [base.encode_images(images) for base in (one, two)]
    assert torch.equal(*latents)
    added = None if texts[0].pooled is None else {"text_embeds": texts[0].pooled, "time_ids": torch.ones(1, 6)}
    inputs = (torch.randn(1, 4, 8, 8), 7)
    with torch.no_grad():
        outputs = [
            base.unet(*inputs, encoder_hidden_states=texts[0].tokens, added_cond_kwargs=added).sample
            for base in (one, two)
        ]
    assert torch.equal(*outputs)
    assert one.noise_schedule["prediction_type"] == two.noise_schedule["prediction_type"]


def test_a_released_file_comes_back_bit_for_bit_with_all_it_carried(folder: Path, tmp_path: Path) -> None:
    first, middle, last = tmp_path / "first.safetensors", tmp_path / "middle", tmp_path / "last.safetensors"
    convert(folder, first, to="original")
    tensors = {name: tensor.clone() for name, tensor in load_file(first).items()}  # the file is written again below
    tensors |= {"betas": torch.rand(1000), "alphas_cumprod": torch.rand(1000)}
    if folder.parent.name.startswith("sd2"):  # the last layer, which the released files carry and nothing uses
        layer = "cond_stage_model.model.transformer.resblocks."
        tensors |= {n.replace(f"{layer}1.", f"{layer}2."): t.clone() for n, t in tensors.items() if f"{layer}1." in n}
        tensors["cond_stage_model.model.text_projection"] = torch.randn(64, 64).half()
    save_file(tensors, first, {"modelspec.prediction_type": "epsilon"})
    convert(first, middle, to="diffusers")
    convert(middle, last, to="original")
    same(load_file(last), tensors)


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_a_control_comes_back_bit_for_bit_and_keeps_its_kind(control: ControlNet, ending: str, tmp_path: Path) -> None:
    control.save(tmp_path / "one")
    convert(tmp_path / "one", tmp_path / f"two-canny{ending}", to="original")
    convert(tmp_path / f"two-canny{ending}", tmp_path / "three", to="diffusers")
    back = ControlNet.load(tmp_path / "three")
    same(back.state_dict(), control.state_dict())
    assert back.config == control.config
    assert back.kind == "canny"
    assert back.sides == (0.6 if ending == ".safetensors" else None)  # a .pth has no metadata


def test_a_released_control_has_the_names_that_other_programs_look_for(control: ControlNet, tmp_path: Path) -> None:
    control.save(tmp_path / "one")
    convert(tmp_path / "one", tmp_path / "two.safetensors", to="original")
    names = load_file(tmp_path / "two.safetensors").keys()
    assert all(name.startswith("control_model.") for name in names)
    expected = ("time_embed.0.weight", "zero_convs.0.0.weight", "input_hint_block.14.bias", "middle_block_out.0.weight")
    assert {f"control_model.{name}" for name in expected} <= names


def test_global_pooling_survives_whatever_the_name(tmp_path: Path) -> None:
    control = ControlNet.from_unet(UNet2DConditionModel(**UNETS["sd1"]), global_pool_conditions=True)
    assert isinstance(control, ControlNet)
    control.save(tmp_path / "one")
    convert(tmp_path / "one", tmp_path / "two.safetensors", to="original")
    assert ControlNet.load(tmp_path / "two.safetensors").pools_globally


def test_diffusers_opens_a_converted_control_with_the_same_outputs(control: ControlNet, tmp_path: Path) -> None:
    control.save(tmp_path / "one")
    convert(tmp_path / "one", tmp_path / "two.safetensors", to="original")
    convert(tmp_path / "two.safetensors", tmp_path / "three", to="diffusers")
    theirs = ControlNetModel.from_pretrained(tmp_path / "three")
    same(theirs.state_dict(), dict(control.state_dict()))


def pooling_control() -> ControlNet:
    """A control with settings that Stable Diffusion does not have and the shapes do not tell, as the shipped one's."""
    settings = UNETS["sd1"] | {
        "attention_head_dim": 2,
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 4,
    }
    control = ControlNet.from_unet(UNet2DConditionModel(**settings))
    assert isinstance(control, ControlNet)
    return control


def test_settings_that_no_shape_determines_are_stored_in_the_files_metadata(tmp_path: Path) -> None:
    control = pooling_control()
    control.save(tmp_path / "one")
    convert(tmp_path / "one", tmp_path / "two.safetensors", to="original")
    assert "control_model.encoder_pooling.1.q_proj.weight" in load_file(tmp_path / "two.safetensors")
    convert(tmp_path / "two.safetensors", tmp_path / "three", to="diffusers")
    back = ControlNet.load(tmp_path / "three")
    assert back.config == control.config
    same(back.state_dict(), control.state_dict())


def test_settings_that_a_file_cannot_store_are_refused(tmp_path: Path) -> None:
    pooling_control().save(tmp_path / "one")
    with pytest.raises(TetherError, match=r"attention_head_dim=2.*cannot store: use \.safetensors"):
        convert(tmp_path / "one", tmp_path / "two.pth", to="original")


@pytest.mark.parametrize("stored", ["[1]", "not JSON", '{"layers_per_block": 1000000000}', '{"_class_name": "X"}'])
def test_metadata_without_valid_settings_is_refused(stored: str, control: ControlNet, tmp_path: Path) -> None:
    control.save(tmp_path / "one")
    convert(tmp_path / "one", tmp_path / "two.safetensors", to="original")
    save_file(load_file(tmp_path / "two.safetensors"), tmp_path / "three.safetensors", {"tether.config": stored})
    with pytest.raises(TetherError, match=r"not a JSON object of settings|no network"):
        ControlNet.load(tmp_path / "three.safetensors")


def test_the_type_is_what_was_asked_for(control: ControlNet, tmp_path: Path) -> None:
    control.save(tmp_path / "one")
    done = convert(tmp_path / "one", tmp_path / "two.safetensors", to="original", dtype=torch.bfloat16)
    tensors = load_file(tmp_path / "two.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    first = tensors["control_model.input_blocks.0.0.weight"]
    assert torch.equal(first, control.conv_in.weight.bfloat16())
    assert done.bytes == (tmp_path / "two.safetensors").stat().st_size
    assert done.tensors == len(tensors)


def test_what_is_there_is_kept_unless_forced(control: ControlNet, tmp_path: Path) -> None:
    control.save(tmp_path / "one")
    target = tmp_path / "two.safetensors"
    target.write_text("precious")
    with pytest.raises(TetherError, match="already exists: use --force"):
        convert(tmp_path / "one", target, to="original")
    assert target.read_text() == "precious"
    convert(tmp_path / "one", target, to="original", force=True)
    assert ControlNet.load(target).config == control.config
    with pytest.raises(TetherError, match="the diffusers layout is a folder"):
        convert(tmp_path / "one", tmp_path / "x.safetensors", to="diffusers")
    with pytest.raises(TetherError, match="the original layout is a file"):
        convert(tmp_path / "one", tmp_path / "x", to="original")


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as POSIX does")
@pytest.mark.parametrize("ending", [".safetensors", ".pth", ""])
def test_a_full_disk_leaves_nothing_behind_and_the_old_file_whole(
    control: ControlNet, ending: str, tmp_path: Path
) -> None:
    control.save(tmp_path / "one")
    target = tmp_path / "out" / f"two{ending}"
    layout: Any = "original" if ending else "diffusers"
    convert(tmp_path / "one", target, to=layout)
    before = sorted((path, path.stat().st_size) for path in target.parent.rglob("*"))
    program = (
        "import resource\n"
        "from tether.conversion import convert\n"
        "from tether.errors import TetherError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "try:\n"
        f"    convert({str(tmp_path / 'one')!r}, {str(target)!r}, to={layout!r}, force=True)\n"
        "except TetherError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ)
    assert "cannot be written" in run.stdout, run.stderr
    assert len(run.stdout.splitlines()) == 1
    assert sorted((path, path.stat().st_size) for path in target.parent.rglob("*")) == before


def test_broken_numbers_are_not_written(control: ControlNet, tmp_path: Path) -> None:
    with torch.no_grad():
        control.conv_in.bias[0] = float("nan")
    with pytest.raises(TetherError, match=r"conv_in\.bias contains NaN"):
        control.save(tmp_path / "one")
    assert list(tmp_path.iterdir()) == []


def test_a_base_that_the_original_layout_cannot_store_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TetherError, match=r"attention_head_dim=4.*it implies 8"):
        convert(tiny_folder, tmp_path / "a.safetensors", to="original")


def test_older_programs_find_the_tokenizers_two_files(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "again", to="diffusers")
    written = tmp_path / "again" / "tokenizer"
    vocabulary = json.loads((written / "vocab.json").read_text(encoding="utf-8"))
    merges = (written / "merges.txt").read_text(encoding="utf-8").splitlines()
    plain = clip_tokenizer()
    assert vocabulary == plain.get_vocab()
    assert merges[:2] == ["#version: 0.2", "i n"]  # as in the file that OpenAI published
    assert len(merges) == 1 + 48894
    assert Tokenizer(BPE.from_file(str(written / "vocab.json"), str(written / "merges.txt"))).get_vocab_size() == 49408


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
def test_what_a_base_predicts_and_that_its_last_step_is_noise_survive(
    folder: Path, ending: str, tmp_path: Path
) -> None:
    """Velocity is stored in metadata, and as `v_pred` in SD 1.x and XL; a last step without signal as `ztsnr`."""
    if ending == ".ckpt" and folder.parent.name.startswith("sd2"):
        pytest.skip("a .ckpt of SD 2.x is recognized by other means")
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    path = changed / "scheduler" / "scheduler_config.json"
    settings = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    convert(changed, tmp_path / f"a{ending}", to="original")
    convert(tmp_path / f"a{ending}", tmp_path / "back", to="diffusers")
    back = json.loads((tmp_path / "back" / "scheduler" / "scheduler_config.json").read_text())
    assert {name: back[name] for name in settings} == settings


def test_a_part_that_a_file_does_not_hold_is_noted(folder: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(folder, tmp_path / "changed"))
    index = json.loads((changed / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (changed / "model_index.json").write_text(json.dumps(index))
    assert convert(folder, tmp_path / "a.safetensors", to="original").notes == []
    assert convert(changed, tmp_path / "b.safetensors", to="original").notes == ["left out: safety_checker"]


def test_a_noise_schedule_that_the_original_layout_does_not_imply_is_refused(folder: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    path = changed / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"beta_end": 0.02}))
    with pytest.raises(TetherError, match=r"beta_end=0\.02, which .* cannot store \(it implies 0\.012\)"):
        convert(changed, tmp_path / "a.safetensors", to="original")


# Transfer.


def test_transfer_adds_the_difference_of_the_encoders(control: ControlNet, tmp_path: Path) -> None:
    """θc' = θc + (θB - θA) in the encoder; zero convolutions and hint encoder stay."""
    torch.manual_seed(5)
    a, b = (UNet2DConditionModel(**UNETS["sd1"]) for _ in range(2))
    moved = transferred(control.state_dict(), a.state_dict(), b.state_dict())
    for name, tensor in control.state_dict().items():
        if name in a.state_dict():
            expected = tensor.double() + b.state_dict()[name].double() - a.state_dict()[name].double()
            torch.testing.assert_close(moved[name].double(), expected, rtol=0, atol=2e-6)
        else:
            assert name.startswith("controlnet_")
            assert torch.equal(moved[name], tensor)


def test_transfer_to_the_same_base_changes_nothing(control: ControlNet) -> None:
    unet = UNet2DConditionModel(**UNETS["sd1"])
    same(transferred(control.state_dict(), unet.state_dict(), unet.state_dict()), dict(control.state_dict()))


def test_an_untrained_control_is_moved_onto_the_other_encoder() -> None:
    """θc = θA gives θc' = θB: up to one rounding of float32, the untrained control of B."""
    torch.manual_seed(6)
    a, b = (UNet2DConditionModel(**UNETS["sd1"]) for _ in range(2))
    moved = transferred(ControlNet.from_unet(a).state_dict(), a.state_dict(), b.state_dict())
    for name, tensor in b.state_dict().items():
        if name in moved:
            torch.testing.assert_close(moved[name], tensor, rtol=0, atol=1e-6)


def test_transfer_between_files(control: ControlNet, folder: Path, tmp_path: Path) -> None:
    if not folder.parent.name.startswith("sd1"):
        control_of_other = ControlNet.from_unet(UNet2DConditionModel(**UNETS["sd1"]))
        assert isinstance(control_of_other, ControlNet)
        control_of_other.save(tmp_path / "one")
        with pytest.raises(TetherError, match="transfer"):
            convert(tmp_path / "one", tmp_path / "b", to="diffusers", transfer_from=folder, transfer_to=folder)
        return
    control.save(tmp_path / "one")
    convert(tmp_path / "one", tmp_path / "two", to="diffusers", transfer_from=folder, transfer_to=folder)
    same(ControlNet.load(tmp_path / "two").state_dict(), dict(control.state_dict()))
    with pytest.raises(TetherError, match="give both"):
        convert(tmp_path / "one", tmp_path / "three", to="diffusers", transfer_from=folder)
