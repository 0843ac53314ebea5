"""What is kept, and bases with LoRA and embeddings as copies that leave the base as it is."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tether.base import Base
from tether.sampling import Request, Session, opening
from tether.sampling.opening import BaseKey, Opener, Recent, copy_on_write


def digest(base: Base) -> str:
    """Of every tensor of a base, its tokenizers' vocabulary included."""
    total = hashlib.sha256()
    for module in base.modules():
        for name, tensor in module.state_dict().items():
            total.update(name.encode())
            total.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    total.update(str(sorted(base.tokenizer.get_vocab().items())).encode())
    return total.hexdigest()


@pytest.fixture
def word(tiny_base: Base, tmp_path: Path) -> str:
    width = tiny_base.text_encoder.config.hidden_size
    save_file({"emb_params": torch.randn(2, width)}, tmp_path / "thing.safetensors")
    return str(tmp_path / "thing.safetensors")


@pytest.fixture
def lora(tiny_base: Base, tmp_path: Path) -> str:
    pytest.importorskip("peft", reason="an optional dependency, tether-control[lora]")
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    side = tiny_base.unet.get_submodule(name.removeprefix("unet.")).weight.shape[0]
    tensors = {f"{name}.lora_A.weight": torch.randn(2, side), f"{name}.lora_B.weight": torch.randn(side, 2)}
    save_file(tensors, tmp_path / "style.safetensors")
    return f"{tmp_path / 'style.safetensors'}:0.5"


def key(folder: Path, **values: Any) -> BaseKey:
    return BaseKey.of(Request(prompt="x", base=str(folder), **values))


def test_what_was_used_longest_ago_goes_first() -> None:
    made: list[str] = []
    recent = Recent[str, str](2)
    for name in ("a", "b", "a", "c", "a", "b"):
        assert recent.get(name, lambda name=name: made.append(name) or name) == name
    assert made == ["a", "b", "c", "b"]


def test_a_copy_shares_every_tensor_and_nothing_else(tiny_base: Base) -> None:
    copy = copy_on_write(tiny_base)
    for module, copied in zip(tiny_base.modules(), copy.modules(), strict=True):
        assert module is not copied
        for (name, ours), (_, theirs) in zip(module.state_dict().items(), copied.state_dict().items(), strict=True):
            assert ours.data_ptr() == theirs.data_ptr(), name
        for ours, theirs in zip(module.parameters(), copied.parameters(), strict=True):
            assert ours is not theirs
    assert copy.tokenizer is not tiny_base.tokenizer


def test_lora_and_embeddings_are_taken_off_again_to_the_bit(tiny_folder: Path, lora: str, word: str) -> None:
    opener = Opener(2, lambda line: None)
    base = opener.base(key(tiny_folder))
    before = digest(base)
    adapted = opener.base(key(tiny_folder, loras=[lora], embeddings=[word]))
    assert digest(adapted) != before
    assert digest(base) == before
    assert opener.base(key(tiny_folder)) is base


def test_tensors_that_no_lora_touches_are_shared(tiny_folder: Path, lora: str) -> None:
    opener = Opener(2, lambda line: None)
    base, adapted = opener.base(key(tiny_folder)), opener.base(key(tiny_folder, loras=[lora]))
    pairs = [
        (name, tensor, theirs)
        for ours, copied in zip(base.modules(), adapted.modules(), strict=True)
        for (name, tensor), (_, theirs) in zip(ours.state_dict().items(), copied.state_dict().items(), strict=True)
    ]
    changed = [name for name, tensor, theirs in pairs if tensor.data_ptr() != theirs.data_ptr()]
    assert changed == ["mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"]


def test_a_session_draws_with_a_lora_and_then_without_as_before(tiny_folder: Path, lora: str, word: str) -> None:
    session = Session()

    def draw(**values: Any) -> bytes:
        request = Request(prompt="a <thing>", base=str(tiny_folder), steps=2, **values)
        return session.run(request)[0].image.tobytes()

    plain = draw()
    styled, worded = draw(loras=[lora]), draw(embeddings=[word])
    assert len({plain, styled, worded}) == 3
    assert draw() == plain
    assert draw(loras=[lora]) == styled
    spared = draw(loras=[lora], low_memory=True)
    levels = [np.frombuffer(drawn, np.uint8).astype(int) for drawn in (spared, styled)]
    assert np.abs(levels[0] - levels[1]).max() <= 1


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The dtype of each base that is read from its files."""
    seen: list[str] = []
    load = opening.load_base
    monkeypatch.setattr(opening, "load_base", lambda ref, **how: seen.append(str(how["dtype"])[6:]) or load(ref, **how))
    return seen


def test_one_base_is_enough_to_adapt_it_and_keep_it(tiny_folder: Path, word: str, loads: list[str]) -> None:
    opener = Opener(1, lambda line: None)
    first, again = (opener.base(key(tiny_folder, embeddings=[word])) for _ in range(2))
    assert first is again
    assert len(opener.opened.values) == 1
    assert len(loads) == 1


def test_an_adapted_base_and_another_that_take_turns_are_read_once(
    tiny_folder: Path, word: str, loads: list[str]
) -> None:
    opener = Opener(2, lambda line: None)
    for _ in range(3):
        opener.base(key(tiny_folder, embeddings=[word]))
        opener.base(key(tiny_folder, dtype="bfloat16"))
    assert loads == ["float32", "bfloat16"]


@pytest.mark.parametrize("what", ["base", "embedding"])
def test_an_adapted_base_is_made_anew_when_a_file_has_changed(
    tiny_folder: Path, tmp_path: Path, word: str, what: str
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_folder, folder)
    opener = Opener(2, lambda line: None)
    first = opener.base(key(folder, embeddings=[word]))
    file = Path(word) if what == "embedding" else next((folder / "unet").glob("*.safetensors"))
    tensors = load_file(file)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, file)
    again = opener.base(key(folder, embeddings=[word]))
    assert digest(again) != digest(first)
    assert opener.base(key(folder, embeddings=[word])) is again


def test_the_base_of_an_adapted_one_is_not_the_one_that_goes(tiny_folder: Path, word: str) -> None:
    opener = Opener(2, lambda line: None)
    base = opener.base(key(tiny_folder))
    opener.base(key(tiny_folder, dtype="bfloat16"))
    opener.base(key(tiny_folder, embeddings=[word]))
    assert opener.base(key(tiny_folder)) is base


def test_with_low_memory_only_the_base_that_draws_is_kept(tiny_folder: Path, lora: str) -> None:
    opener = Opener(4, lambda line: None)
    opener.base(key(tiny_folder, loras=[lora], low_memory=True))
    assert [one.low_memory for one in opener.opened.values] == [True]


def test_a_line_gives_the_word_of_an_embedding(tiny_folder: Path, word: str) -> None:
    lines: list[str] = []
    Opener(2, lines.append).base(key(tiny_folder, embeddings=[word]))
    assert lines[1:] == [f"{word}: write <thing>"]
