"""Tether's own CLIP tokenizer against transformers'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPTokenizer

from tether.base.tokenizer import ClipTokenizer, own_clip_tokenizer, own_tokenizer
from tether.formats.clip_vocabulary import clip_tokenizer, vocabulary
from tether.weights import shipped

TEXTS = (
    "a red apple, 3d emoji",
    "wow!! it's <|endoftext|> over",
    "  h\u00e9llo\n\tW\u00d6RLD 1234 \u65e5\u672c\u8a9e \U0001f600 don't",
    "",
)
START, END = "<|startoftext|>", "<|endoftext|>"


def assert_same(ours: ClipTokenizer | None, theirs: Any) -> None:
    """Same rules, same ids, same places."""
    assert ours is not None
    assert json.loads(ours.backend_tokenizer.to_str()) == json.loads(theirs.backend_tokenizer.to_str())
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "model_max_length", "is_fast"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.get_added_vocab() == theirs.get_added_vocab()
    assert len(ours) == len(theirs)
    for text in TEXTS:
        for framed in (False, True):
            options: dict[str, Any] = {"add_special_tokens": framed, "return_offsets_mapping": True, "verbose": False}
            found, expected = ours(text, **options), theirs(text, **options)
            assert found.input_ids == expected.input_ids
            assert found.offset_mapping == [tuple(place) for place in expected.offset_mapping]


@pytest.fixture(scope="module")
def old_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer's folder as Stable Diffusion 1.5 has it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    vocab, merges = vocabulary()
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
    return folder


def write_settings(folder: Path, pad: str, **more: Any) -> None:
    rules = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    marks: dict[str, Any] = {"bos_token": START, "eos_token": END, "unk_token": END}
    marks = {name: {"content": text, **rules} for name, text in marks.items()} | {"pad_token": pad}
    (folder / "special_tokens_map.json").write_text(json.dumps(marks))
    typed = {name: {"__type": "AddedToken", **one} if isinstance(one, dict) else one for name, one in marks.items()}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, "errors": "replace"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | typed | more))


@pytest.mark.parametrize("pad", [END, "!"])
def test_the_vocabulary_that_ships_makes_the_same_tokenizer(pad: str) -> None:
    assert_same(own_clip_tokenizer(pad), clip_tokenizer(pad))


def test_the_shipped_bases_tokenizer_is_the_same() -> None:
    folder = shipped("base") / "tokenizer"
    assert_same(own_tokenizer(folder), CLIPTokenizer.from_pretrained(folder))


@pytest.mark.parametrize("pad", [END, "!"])
def test_a_folder_without_tokenizer_json_makes_the_same_tokenizer(old_folder: Path, pad: str) -> None:
    write_settings(old_folder, pad)
    assert_same(own_tokenizer(old_folder), CLIPTokenizer.from_pretrained(old_folder))


def test_added_tokens_that_are_listed_keep_their_rules_in_every_layout(old_folder: Path, tmp_path: Path) -> None:
    rules = {"lstrip": False, "rstrip": False, "single_word": False, "special": True}
    listed = {"0": {"content": "!", "normalized": False} | rules}
    listed |= {
        "49406": {"content": START, "normalized": True} | rules,
        "49407": {"content": END, "normalized": True} | rules,
    }
    write_settings(old_folder, "!", added_tokens_decoder=listed, clean_up_tokenization_spaces=True)
    theirs = CLIPTokenizer.from_pretrained(old_folder)
    assert_same(own_tokenizer(old_folder), theirs)
    theirs.save_pretrained(tmp_path)
    assert_same(own_tokenizer(tmp_path), CLIPTokenizer.from_pretrained(tmp_path))


@pytest.mark.parametrize(
    "more",
    [
        {"tokenizer_class": "T5Tokenizer"},
        {"chat_template": "{{ x }}"},
        {"model_max_length": None},
        {"pad_token": "<pad>"},
        {"additional_special_tokens": ["<a>"]},
    ],
)
def test_a_folder_with_other_settings_is_left_to_transformers(old_folder: Path, more: dict[str, Any]) -> None:
    write_settings(old_folder, END, **more)
    assert own_tokenizer(old_folder) is None


def test_a_folder_that_cannot_be_read_is_left_to_transformers(tmp_path: Path) -> None:
    assert own_tokenizer(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text("{")
    assert own_tokenizer(tmp_path) is None
