"""A LoRA changes the layers it names by strength * alpha / rank * B A, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tether.base import Base, load_base
from tether.base.lora import add_lora
from tether.errors import TetherError

from ..reference.layouts import SMALL, numbers

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
STRENGTH = 0.7

Gains = dict[tuple[str, str], Tensor]


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def family_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small base of each family, in the original layout."""
    path = tmp_path_factory.mktemp(request.param) / f"{request.param}.safetensors"
    save_file(numbers(SMALL[request.param].base()), path)
    return path


@pytest.fixture
def family_base(family_file: Path) -> Base:
    return load_base(family_file)


def parts(base: Base) -> dict[str, nn.Module]:
    every = {"unet": base.unet, "text_encoder": base.text_encoder, "text_encoder_2": base.text_encoder_2}
    return {part: network for part, network in every.items() if network is not None}


def kohya(part: str, name: str, two: bool) -> str:
    if part == "unet":
        return f"lora_unet_{name.replace('.', '_')}"
    prefix = {"text_encoder": "lora_te1_" if two else "lora_te_", "text_encoder_2": "lora_te2_"}[part]
    return f"{prefix}text_model_{name.removeprefix('text_model.').replace('.', '_')}"


def dotted(part: str, name: str) -> str:
    return f"unet.{name}" if part == "unet" else f"{part}.text_model.{name.removeprefix('text_model.')}"


def old_processor(part: str, name: str) -> str:
    assert part == "unet"
    attention, _, projection = name.removesuffix(".0").rpartition(".")
    return f"unet.{attention}.processor.{projection}_lora"


ENDS = {
    "kohya": (".lora_down.weight", ".lora_up.weight"),
    "diffusers": (".lora_A.weight", ".lora_B.weight"),
    "diffusers before peft": (".lora.down.weight", ".lora.up.weight"),
    "diffusers before 0.22": (".down.weight", ".up.weight"),
    "peft": (".lora_A.default.weight", ".lora_B.default.weight"),
}


def layers(base: Base, names: str) -> list[tuple[str, str, str, nn.Module]]:
    """(part, module's name, name in the file, module) of every layer that such a LoRA may have."""
    found = []
    for part, network in parts(base).items():
        for name, module in network.named_modules():
            attention = "attn" in name and isinstance(module, nn.Linear)
            if not isinstance(module, (nn.Linear, nn.Conv2d)) or name == "text_projection":
                continue
            if names == "diffusers before 0.22" and not (part == "unet" and attention and "attn" in name):
                continue
            if names == "peft" and part != "unet":
                continue
            two = base.text_encoder_2 is not None
            stored = {
                "kohya": kohya(part, name, two),
                "peft": f"base_model.model.{name}",
                "diffusers before 0.22": old_processor(part, name) if part == "unet" else "",
            }.get(names, dotted(part, name))
            found.append((part, name, stored, module))
    return found


def make(base: Base, names: str) -> tuple[dict[str, Tensor], Gains]:
    """A LoRA with another rank and alpha in each layer, and the change of every weight at strength 1."""
    random = torch.Generator().manual_seed(3)
    tensors: dict[str, Tensor] = {}
    gains: Gains = {}
    down_end, up_end = ENDS[names]
    for count, (part, name, stored, module) in enumerate(layers(base, names)):
        shape = module.weight.shape  # type: ignore[union-attr]
        rank, alpha = 2 + count % 3, None if count % 4 == 0 else float(1 + count % 5)
        down = torch.randn(rank, *shape[1:], generator=random)
        up = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=random)
        tensors |= {stored + down_end: down, stored + up_end: up}
        if alpha is not None:
            tensors[f"{stored}.alpha"] = torch.tensor(alpha)
        gains[part, name] = (up.flatten(1) @ down.flatten(1)).reshape(shape) * (1 if alpha is None else alpha / rank)
    return tensors, gains


def state(base: Base) -> dict[tuple[str, str], Tensor]:
    return {
        (part, name): t.clone() for part, network in parts(base).items() for name, t in network.state_dict().items()
    }


def check(before: dict, base: Base, gains: Gains, strength: float = STRENGTH) -> None:
    """W' - W is right in each layer, and no other tensor changed."""
    after = state(base)
    assert after.keys() == before.keys()
    for (part, name), tensor in after.items():
        gain = gains.get((part, name.removesuffix(".weight"))) if name.endswith(".weight") else None
        if gain is None:
            assert torch.equal(tensor, before[part, name]), (part, name)
        else:
            torch.testing.assert_close(tensor - before[part, name], strength * gain, rtol=1e-3, atol=1e-4)
    assert not any(parameter.requires_grad for module in base.modules() for parameter in module.parameters())


@pytest.mark.parametrize("names", ENDS)
def test_each_layer_changes_by_strength_times_alpha_over_rank_times_b_a(
    names: str, family_base: Base, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors, gains = make(family_base, names)
    assert len(gains) > 15
    save_file(tensors, tmp_path / "lora.safetensors")
    before = state(family_base)
    add_lora(family_base, tmp_path / "lora.safetensors", STRENGTH)
    check(before, family_base, gains)
    assert caplog.text == ""
    add_lora(family_base, tmp_path / "lora.safetensors", -STRENGTH)
    check(before, family_base, {key: torch.zeros_like(gain) for key, gain in gains.items()})


def test_names_of_the_original_layout_are_the_same_layers(family_base: Base, tmp_path: Path) -> None:
    """As sd-scripts writes them for SDXL. The three places are restated from the published networks."""
    places = {
        "input_blocks_0_0": "conv_in",
        "input_blocks_1_0_in_layers_2": "down_blocks.0.resnets.0.conv1",
        "middle_block_1_transformer_blocks_0_attn2_to_k": "mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
        "output_blocks_0_0_skip_connection": "up_blocks.0.resnets.0.conv_shortcut",
        "time_embed_0": "time_embedding.linear_1",
        "out_2": "conv_out",
    }
    tensors, gains = {}, {}
    for stored, name in places.items():
        shape = family_base.unet.get_submodule(name).weight.shape
        gains["unet", name] = torch.randn(shape)
        tensors[f"lora_unet_{stored}.diff"] = gains["unet", name]
    save_file(tensors, tmp_path / "lora.safetensors")
    before = state(family_base)
    add_lora(family_base, tmp_path / "lora.safetensors", STRENGTH)
    check(before, family_base, gains)


def one_layer(base: Base, seed: int = 4) -> tuple[Tensor, Tensor]:
    """A of rank 4 and B for `LAYER`."""
    random = torch.Generator().manual_seed(seed)
    width = base.unet.get_submodule(LAYER).weight.shape[0]
    return torch.randn(4, width, generator=random), torch.randn(width, 4, generator=random)


def save(base: Base, folder: Path, metadata: dict[str, Any] | None = None, **more: Tensor) -> tuple[Path, Tensor]:
    """A LoRA of one layer in diffusers' names, and B A."""
    down, up = one_layer(base)
    tensors = {f"unet.{LAYER}.lora_A.weight": down, f"unet.{LAYER}.lora_B.weight": up} | more
    save_file(tensors, folder / "lora.safetensors", metadata)
    return folder / "lora.safetensors", up @ down


@pytest.mark.parametrize(
    ("said", "scale"),
    [
        ({}, 1),
        ({"unet.lora_alpha": 8, "unet.r": 4}, 2),
        ({"lora_alpha": 8}, 2),
        ({"unet.lora_alpha": 8, "text_encoder.lora_alpha": 1}, 2),
        ({"unet.lora_alpha": 8, "unet.use_rslora": True}, 4),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": 2}}, 0.5),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn2.to_q": 2}}, 2),
    ],
)
def test_an_alpha_in_the_files_metadata_counts(said: dict, scale: float, tiny_base: Base, tmp_path: Path) -> None:
    path, product = save(tiny_base, tmp_path, {"lora_adapter_metadata": json.dumps(said)})
    before = state(tiny_base)
    add_lora(tiny_base, path)
    check(before, tiny_base, {("unet", LAYER): scale * product}, 1.0)


def test_an_alpha_beside_the_file_or_loose_in_its_metadata_counts(tiny_base: Base, tmp_path: Path) -> None:
    for loose in (True, False):
        base_before = state(tiny_base)
        path, product = save(tiny_base, tmp_path, {"unet.lora_alpha": "8"} if loose else None)
        if not loose:
            (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))
        add_lora(tiny_base, path)
        check(base_before, tiny_base, {("unet", LAYER): 2 * product}, 1.0)


@pytest.mark.parametrize(
    "said",
    [
        "{",
        "[]",
        '{"unet.lora_alpha": "much"}',
        '{"unet.lora_alpha": 1e999}',
        '{"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": NaN}}',
    ],
)
def test_damaged_metadata_is_refused(said: str, tiny_base: Base, tmp_path: Path) -> None:
    path, _ = save(tiny_base, tmp_path, {"lora_adapter_metadata": said})
    with pytest.raises(TetherError, match="has no valid lora_alpha"):
        add_lora(tiny_base, path)


@pytest.mark.parametrize("alpha", ['"abc"', "[1]", "{}", "NaN", "1e999", "1" + "0" * 400])
def test_damaged_settings_beside_a_file_are_refused(alpha: str, tiny_base: Base, tmp_path: Path) -> None:
    path = save(tiny_base, tmp_path)[0]
    for said in (f'{{"lora_alpha": {alpha}}}', f'{{"alpha_pattern": {{"to_q": {alpha}}}}}'):
        (tmp_path / "adapter_config.json").write_text(said)
        with pytest.raises(TetherError, match=r"adapter_config\.json is damaged: it has no valid lora_alpha for unet"):
            add_lora(tiny_base, path)
    (tmp_path / "adapter_config.json").write_text('{"alpha_pattern": [8]}')
    with pytest.raises(TetherError, match=r"it has no valid alpha_pattern: \[8\], expected an object"):
        add_lora(tiny_base, path)


def test_settings_beside_a_file_are_not_anothers(
    tiny_base: Base, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own metadata come first, and what is beside several files is for peft's own."""
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 40}')
    before = state(tiny_base)
    path, product = save(tiny_base, tmp_path, {"lora_adapter_metadata": '{"unet.lora_alpha": 8}'})
    add_lora(tiny_base, path)
    check(before, tiny_base, {("unet", LAYER): 2 * product}, 1.0)
    for name, scale in (("other", 1), ("adapter_model", 10)):
        before = state(tiny_base)
        path, product = save(tiny_base, tmp_path)
        (tmp_path / "one_more.safetensors").touch()
        caplog.clear()
        add_lora(tiny_base, path.rename(tmp_path / f"{name}.safetensors"))
        check(before, tiny_base, {("unet", LAYER): scale * product}, 1.0)
        assert ("adapter_config.json may be another file's: the scale is 1" in caplog.text) == (scale == 1)


def test_what_a_trainer_leaves_beside_a_file_is_no_other_file(tiny_base: Base, tmp_path: Path) -> None:
    before = state(tiny_base)
    path, product = save(tiny_base, tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 8}')
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt"):
        (tmp_path / name).touch()
    add_lora(tiny_base, path)
    check(before, tiny_base, {("unet", LAYER): 2 * product}, 1.0)


def test_diffusers_and_peft_change_the_weights_as_much(tiny_base: Base, tiny_folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="only the other implementation needs it")
    reference = load_base(tiny_folder)
    reference.unet.add_adapter(peft.LoraConfig(r=4, lora_alpha=8, target_modules=["to_q"], use_dora=True))
    tensors = {}
    random = torch.Generator().manual_seed(1)
    for name, parameter in reference.unet.named_parameters():
        if "lora_" in name:
            parameter.data = torch.rand(parameter.shape, generator=random) + 0.1
            tensors[f"unet.{name}"] = parameter.data
    save_file(tensors, tmp_path / "lora.safetensors", {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 8})})
    add_lora(tiny_base, tmp_path / "lora.safetensors")
    reference.unet.fuse_lora()
    for name, module in reference.unet.named_modules():
        if name.endswith("to_q"):
            theirs = module.base_layer.weight
            torch.testing.assert_close(tiny_base.unet.get_submodule(name).weight, theirs, rtol=1e-4, atol=1e-5)


def test_pepts_magnitudes_of_convolutions_are_one_an_output(tiny_base: Base, tiny_folder: Path, tmp_path: Path) -> None:
    """(1, out, 1, 1), where early LyCORIS has one number an input in the same shape."""
    peft = pytest.importorskip("peft", reason="only the other implementation needs it")
    reference = load_base(tiny_folder)
    reference.unet.add_adapter(peft.LoraConfig(r=4, lora_alpha=4, target_modules=["conv1", "conv2"], use_dora=True))
    tensors, random = {}, torch.Generator().manual_seed(1)
    for name, parameter in reference.unet.named_parameters():
        if "lora_" in name:
            parameter.data = torch.rand(parameter.shape, generator=random) + 0.1
            tensors[f"unet.{name}"] = parameter.data
    assert any(t.ndim == 4 and t.shape[0] == 1 and t.shape[1] > 1 for t in tensors.values())
    save_file(tensors, tmp_path / "lora.safetensors", {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 4})})
    add_lora(tiny_base, tmp_path / "lora.safetensors")
    reference.unet.fuse_lora()
    for name, module in reference.unet.named_modules():
        if name.endswith(("conv1", "conv2")):
            theirs = module.base_layer.weight
            torch.testing.assert_close(tiny_base.unet.get_submodule(name).weight, theirs, rtol=1e-4, atol=1e-5)


def test_the_settings_beside_a_file_on_the_hub_are_fetched_where_it_has_no_alpha(
    tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """peft keeps alphas there; a file that is named by itself would be the only one that is downloaded."""
    (tmp_path / "there").mkdir()
    path, product = save(tiny_base, tmp_path / "there", {"format": "pt"})
    other, path = path.parent / "other.safetensors", path.rename(path.parent / "adapter_model.safetensors")  # peft's
    fetched = []

    def find(ref: str, what: str, revision: str | None = None, **_: object) -> Path:
        fetched.append(ref)
        if "adapter_config.json" in ref:
            (path.parent / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "r": 4}))
        return other if "other" in ref else path

    for module in ("tether.base.adapter_file", "tether.files.hub"):
        monkeypatch.setattr(f"{module}.find", find)
    before = state(tiny_base)
    add_lora(tiny_base, f"owner/name/sub/{path.name}@main")
    assert fetched == [f"owner/name/sub/{path.name}@main", "owner/name/sub/adapter_config.json@main"]
    check(before, tiny_base, {("unet", LAYER): 2 * product}, 1.0)
    before, fetched[:] = state(tiny_base), []
    path.rename(other)
    add_lora(tiny_base, "owner/name/sub/other.safetensors")  # its neighbors on the hub are not known
    assert fetched == ["owner/name/sub/other.safetensors"]
    check(before, tiny_base, {("unet", LAYER): product}, 1.0)


def test_dora_and_bias_tensors_of_a_file_are_used(tiny_base: Base, tmp_path: Path) -> None:
    down, up = one_layer(tiny_base)
    name, other = f"lora_unet_{LAYER.replace('.', '_')}", "lora_unet_mid_block_resnets_0_norm1"
    save_file(
        {
            f"{name}.lora_down.weight": down,
            f"{name}.lora_up.weight": up,
            f"{name}.dora_scale": torch.full((64, 1), 3.0),
            f"{other}.w_norm": torch.ones(64),
            f"{other}.b_norm": torch.full((64,), 2.0),
        },
        tmp_path / "lora.safetensors",
    )
    before = state(tiny_base)
    add_lora(tiny_base, tmp_path / "lora.safetensors", 0.5)
    after = state(tiny_base)
    whole = before["unet", f"{LAYER}.weight"] + up @ down
    expected = 3 * whole / whole.norm(dim=1, keepdim=True)
    middle = (before["unet", f"{LAYER}.weight"] + expected) / 2
    torch.testing.assert_close(after["unet", f"{LAYER}.weight"], middle, rtol=1e-4, atol=1e-5)
    for end, change in (("weight", 0.5), ("bias", 1.0)):
        key = ("unet", f"mid_block.resnets.0.norm1.{end}")
        torch.testing.assert_close(after[key] - before[key], torch.full((64,), change), rtol=1e-5, atol=1e-5)


def test_tensors_without_a_place_are_counted_and_named(
    tiny_base: Base, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = {f"unet.{LAYER.replace('attentions', 'attenders')}.lora_{end}.weight": torch.ones(2, 2) for end in "AB"}
    path, product = save(
        tiny_base, tmp_path, **nowhere, **{"global_step": torch.ones(1), "unet.x.alpha": torch.ones(1)}
    )
    before = state(tiny_base)
    add_lora(tiny_base, path)
    check(before, tiny_base, {("unet", LAYER): product}, 1.0)
    assert "4 of its 6 tensors have no place in" in caplog.text
    assert all(name in caplog.text for name in ("global_step", "unet.x.alpha", "attenders.0"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lora_unet_x.oft_blocks", "an OFT"),
        ("oft_unet_x.oft_diag", "an OFT"),
        ("unet.x.boft_R", "an OFT"),
        ("lora_unet_x.on_input", "an IA3"),
        ("lora_unet_x.a1.weight", "a GLoRA"),
        ("base_model.vera_lambda_b", "a VeRA"),
        ("lora_controlnet", "a Control-LoRA"),
    ],
)
def test_kinds_that_are_not_supported_are_refused_by_name(
    name: str, words: str, tiny_base: Base, tmp_path: Path
) -> None:
    path, _ = save(tiny_base, tmp_path, **{name: torch.ones(2, 2)})
    with pytest.raises(TetherError, match=f"is {words}.*supported are LoRA, DoRA, LoHa, LoKr and full differences"):
        add_lora(tiny_base, path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": (2,)}, "contains no LoRA weights"),
        ({f"unet.{LAYER}.alpha": ()}, "contains no LoRA weights"),
        ({f"unet.{LAYER}.lora_A.weight": (2, 96), f"unet.{LAYER}.lora_B.weight": (96, 2)}, "does not fit the base"),
        ({f"unet.{LAYER}.lora_A.weight": (2, 64)}, "is incomplete: it has down"),
        ({"lora_te2_text_model_encoder_layers_0_mlp_fc1.diff": (4, 4)}, "none of its 1 layers exist there"),
        ({"transformer.single_blocks.0.lora_A.weight": (4, 4)}, "none of its 1 layers exist there"),
        ({f"unet.{LAYER}.diff_b": (64,)}, "changes a bias that .* does not have"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line_and_leaves_the_base_alone(
    tensors: dict, message: str, tiny_base: Base, tmp_path: Path
) -> None:
    first = f"unet.{LAYER.replace('to_q', 'to_k')}.diff"  # a layer that would fit
    more = {} if "contains" in message or "none" in message else {first: torch.ones(64, 64)}
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()} | more, tmp_path / "lora.safetensors")
    before = state(tiny_base)
    with pytest.raises(TetherError, match=message) as caught:
        add_lora(tiny_base, tmp_path / "lora.safetensors")
    assert len(str(caught.value).splitlines()) == 1
    check(before, tiny_base, {})


def test_nan_in_a_lora_is_refused(tiny_base: Base, tmp_path: Path) -> None:
    path, _ = save(tiny_base, tmp_path, **{f"unet.{LAYER}.alpha": torch.tensor(float("nan"))})
    with pytest.raises(TetherError, match="contains NaN or infinity"):
        add_lora(tiny_base, path)
