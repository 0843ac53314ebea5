"""LoRA is W + s B A; an embedding is the rows it says."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tether.base import Base
from tether.base.adapters import MultiwordTokenizer, add_embedding, add_lora
from tether.errors import TetherError

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


def lora_file(folder: Path, width: int, rank: int = 2, kohya: bool = False) -> tuple[Path, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(4)
    down, up = torch.randn(rank, width, generator=random), torch.randn(width, rank, generator=random)
    if kohya:
        name = "lora_unet_" + LAYER.replace(".", "_")
        tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(1.0)}
    else:
        tensors = {f"unet.{LAYER}.lora_A.weight": down, f"unet.{LAYER}.lora_B.weight": up}
    save_file(tensors, folder / "lora.safetensors")
    return folder / "lora.safetensors", down, up


@pytest.mark.parametrize("kohya", [False, True], ids=["diffusers names", "kohya names, with alpha"])
def test_a_lora_is_folded_into_the_weights(kohya: bool, tiny_base: Base, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="an optional dependency, tether-control[lora]")
    before = {name: tensor.clone() for name, tensor in tiny_base.unet.state_dict().items()}
    path, down, up = lora_file(tmp_path, 64, kohya=kohya)
    add_lora(tiny_base, path, strength=0.5)
    after = tiny_base.unet.state_dict()
    assert after.keys() == before.keys()
    scale = 0.5 * (1.0 / 2 if kohya else 1.0)
    expected = before[f"{LAYER}.weight"] + scale * (up @ down)
    torch.testing.assert_close(after[f"{LAYER}.weight"], expected, rtol=1e-5, atol=1e-5)
    assert [n for n, t in after.items() if n != f"{LAYER}.weight" and not torch.equal(t, before[n])] == []
    assert not any(parameter.requires_grad for parameter in tiny_base.unet.parameters())


@pytest.mark.parametrize("kohya", [False, True], ids=["diffusers names", "kohya names"])
def test_layers_of_a_lora_that_do_not_exist_are_counted_in_a_warning(
    kohya: bool, tiny_base: Base, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("peft", reason="an optional dependency, tether-control[lora]")
    path, _, _ = lora_file(tmp_path, 64, kohya=kohya)
    add_lora(tiny_base, path)
    assert "layers exist" not in caplog.text
    more = {name.replace("attentions", "attenders"): tensor for name, tensor in load_file(path).items()}
    save_file(load_file(path) | more, path)
    add_lora(tiny_base, path)
    assert "only 1 of its 2 layers exist" in caplog.text


def test_a_lora_for_another_base_is_refused_and_leaves_the_base_alone(tiny_base: Base, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="an optional dependency, tether-control[lora]")
    before = {name: tensor.clone() for name, tensor in tiny_base.unet.state_dict().items()}
    path, _, _ = lora_file(tmp_path, 96)
    with pytest.raises(TetherError, match="does not fit the base") as caught:
        add_lora(tiny_base, path)
    assert len(str(caught.value).splitlines()) == 1
    after = tiny_base.unet.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def test_a_file_that_is_no_lora_is_refused(tiny_base: Base, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="an optional dependency, tether-control[lora]")
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(TetherError, match="contains no LoRA weights"):
        add_lora(tiny_base, tmp_path / "a.safetensors")


@pytest.mark.parametrize("form", ["diffusers", "web interfaces", "emb_params"])
def test_an_embedding_adds_its_rows_as_a_word(form: str, tiny_base: Base, tmp_path: Path) -> None:
    rows = torch.randn(3, 32, generator=torch.Generator().manual_seed(8))
    path = tmp_path / "my cat.pt"
    if form == "diffusers":
        torch.save({"<my-cat>": rows}, path)
    elif form == "web interfaces":
        content = {"string_to_token": {"*": 265}, "string_to_param": {"*": rows}, "name": "my cat", "step": 100}
        torch.save(content, path)
    else:
        path = tmp_path / "my cat.safetensors"
        save_file({"emb_params": rows}, path)
    word = add_embedding(tiny_base, path)
    assert word == "<my-cat>"
    ids = tiny_base.tokenizer(f"a {word}", add_special_tokens=False).input_ids
    table = tiny_base.text_encoder.get_input_embeddings().weight
    assert len(ids) == 4
    torch.testing.assert_close(table[ids[1:]], rows)
    plain, with_word = tiny_base.encode_prompts(["a b", f"a {word}"]).tokens
    assert not torch.equal(plain, with_word)


def test_a_tokenizer_with_words_of_many_entries_can_be_copied(tiny_base: Base) -> None:
    tokenizer = MultiwordTokenizer(tiny_base.tokenizer, {"<cube>": ["red", "cube"]})
    text = "a <cube>, a red cube"
    assert copy.deepcopy(tokenizer)(text) == tokenizer(text) == tiny_base.tokenizer("a red cube, a red cube")


def test_an_embedding_of_another_width_or_a_taken_word_is_refused(tiny_base: Base, tmp_path: Path) -> None:
    torch.save({"<x>": torch.zeros(1, 48)}, tmp_path / "x.pt")
    with pytest.raises(TetherError, match="has 48-wide embeddings"):
        add_embedding(tiny_base, tmp_path / "x.pt")
    torch.save({"<y>": torch.zeros(1, 32)}, tmp_path / "y.pt")
    assert add_embedding(tiny_base, tmp_path / "y.pt") == "<y>"
    with pytest.raises(TetherError, match="the token <y> already exists"):
        add_embedding(tiny_base, tmp_path / "y.pt")
