"""An embedding is the rows it has, under one word."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tether.base import Base
from tether.base.embedding import add_embedding
from tether.errors import TetherError


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


def test_an_embedding_of_another_width_or_a_taken_word_is_refused(tiny_base: Base, tmp_path: Path) -> None:
    torch.save({"<x>": torch.zeros(1, 48)}, tmp_path / "x.pt")
    with pytest.raises(TetherError, match="has 48-wide embeddings"):
        add_embedding(tiny_base, tmp_path / "x.pt")
    torch.save({"<y>": torch.zeros(1, 32)}, tmp_path / "y.pt")
    assert add_embedding(tiny_base, tmp_path / "y.pt") == "<y>"
    with pytest.raises(TetherError, match="the token <y> already exists"):
        add_embedding(tiny_base, tmp_path / "y.pt")


def ids(base: Base, text: str) -> list[int]:
    return base.tokenizer(text, add_special_tokens=False).input_ids


def test_of_two_words_the_longer_one_is_read(tiny_base: Base, tmp_path: Path) -> None:
    for count, word in enumerate(("sks", "sks2"), start=1):
        torch.save({word: torch.randn(count, 32)}, tmp_path / f"{word}.pt")
        assert add_embedding(tiny_base, tmp_path / f"{word}.pt") == word
    first = len(tiny_base.text_encoder.get_input_embeddings().weight) - 3
    assert ids(tiny_base, "sks") == [first]
    assert ids(tiny_base, "sks2") == [first + 1, first + 2]
    assert first not in ids(tiny_base, "sks3")


def test_a_word_of_the_vocabulary_may_be_given_a_new_meaning(tiny_base: Base, tmp_path: Path) -> None:
    torch.save({"*": torch.ones(1, 32)}, tmp_path / "x.pt")
    before = ids(tiny_base, "abc a")
    assert add_embedding(tiny_base, tmp_path / "x.pt", token="a") == "a"
    after = ids(tiny_base, "abc a")
    assert after[:3] == before[:3]
    assert tiny_base.text_encoder.get_input_embeddings().weight[after[3]].tolist() == [1.0] * 32


def test_an_embedding_leaves_the_rest_of_the_table_alone(tiny_base: Base, tmp_path: Path) -> None:
    before = tiny_base.text_encoder.get_input_embeddings().weight.clone()
    tokenizer, vocabulary = tiny_base.tokenizer, dict(tiny_base.tokenizer.get_vocab())
    torch.save({"<x>": torch.ones(2, 32)}, tmp_path / "x.pt")
    add_embedding(tiny_base, tmp_path / "x.pt")
    table = tiny_base.text_encoder.get_input_embeddings().weight
    assert torch.equal(table[: len(before)], before)
    assert len(table) == len(before) + 2
    assert tokenizer.get_vocab() == vocabulary
    assert not table.requires_grad
