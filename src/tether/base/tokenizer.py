"""CLIP's tokenizer over the tokenizers library alone, so that drawing need not wait for transformers.

It is the part of transformers' `CLIPTokenizer` that prompts need, with the same vocabulary, merges, rules and special
tokens; tests compare the two. A folder with settings that this module does not know is left to transformers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from tether.formats.clip_vocabulary import END, START, vocabulary

__all__ = ["ClipTokenizer", "own_clip_tokenizer", "own_tokenizer"]

SPECIAL = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
"""The special tokens by the names of their settings, and their defaults; in the order in which they are added."""
KNOWN = {*SPECIAL, "add_prefix_space", "added_tokens_decoder", "backend", "clean_up_tokenization_spaces"}
KNOWN |= {"do_lower_case", "errors", "is_local", "local_files_only", "model_max_length", "name_or_path"}
KNOWN |= {"special_tokens_map_file", "tokenizer_class", "processor_class", "use_fast"}
"""Settings of a `tokenizer_config.json` that this module applies, or that mean nothing to CLIP's tokenizer."""
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class Encoded:
    """The tokens of a text.

    Attributes:
        input_ids: their ids.
        offset_mapping: where each begins and ends in the text.
    """

    input_ids: list[int]
    offset_mapping: list[tuple[int, int]]


class ClipTokenizer:
    """Texts -> token ids.

    Args:
        vocab: token -> id.
        merges: pairs of tokens, the first ones are merged first.
        special: for each of `SPECIAL`, the token with its rules.
        added: further tokens that are found in a text before all else; they come before those of `special`, whose rules
            count where a token is in both.
        model_max_length: tokens that the text encoder takes.
    """

    is_fast = True

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        special: Mapping[str, AddedToken],
        added: Iterable[AddedToken] = (),
        *,
        model_max_length: int,
    ) -> None:
        names = {name: token.content for name, token in special.items()}
        model = BPE(
            vocab=dict(vocab),
            merges=list(merges),
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
            unk_token=names["unk_token"],
        )
        backend: Any = Tokenizer(model)
        backend.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        backend.decoder = decoders.ByteLevel()
        tokens = {token.content: token for token in (*added, *special.values())}
        backend.add_tokens(list(tokens.values()))
        self.backend_tokenizer = backend
        self.model_max_length = model_max_length
        self._added = list(tokens)
        self.bos_token_id, self.eos_token_id, self.pad_token_id = (
            backend.token_to_id(names[name]) for name in ("bos_token", "eos_token", "pad_token")
        )
        backend.post_processor = processors.RobertaProcessing(
            (names["eos_token"], self.eos_token_id), (names["bos_token"], self.bos_token_id), False, False
        )

    def __call__(self, text: str, *, add_special_tokens: bool = True, **unused: Any) -> Encoded:
        """The tokens of one text, neither cut nor padded, whatever the other options of transformers' tokenizers."""
        encoding = self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return Encoded(encoding.ids, encoding.offsets)

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size()

    def get_added_vocab(self) -> dict[str, int]:
        """Added token -> id."""
        return {token: self.backend_tokenizer.token_to_id(token) for token in self._added}

    def get_vocab(self) -> dict[str, int]:
        """Token -> id."""
        return self.backend_tokenizer.get_vocab()


def own_clip_tokenizer(pad_token: str = END) -> ClipTokenizer:
    """The tokenizer of every Stable Diffusion; see `tether.formats.clip_vocabulary`."""
    vocab, merges = vocabulary()
    special = {name: _token(pad_token if name == "pad_token" else text) for name, text in SPECIAL.items()}
    return ClipTokenizer(vocab, merges, special, model_max_length=77)


def own_tokenizer(folder: Path) -> ClipTokenizer | None:
    """The tokenizer in a folder; None for one that this module does not know, or whose files cannot be read."""
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        window = settings["model_max_length"]
        if not _is_plain(settings, folder) or type(window) is not int or window < 3:
            return None
        vocab, merges, listed = _vocabulary(folder)
        if decoder := settings.get("added_tokens_decoder"):
            listed = [decoder[place] for place in sorted(decoder, key=int)]
        added = {token.content: token for token in map(_token, listed)}
        given = {name: settings.get(name) or text for name, text in SPECIAL.items()}
        special = {name: added.get(_text(token)) or _token(token) for name, token in given.items()}
        if any(vocab.get(token.content) is None for token in (*added.values(), *special.values())):
            return None
        return ClipTokenizer(vocab, merges, special, added.values(), model_max_length=window)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # transformers opens it, or says what is wrong


def _is_plain(settings: Mapping[str, Any], folder: Path) -> bool:
    """Whether a folder is one of CLIP's tokenizers, without settings or files that are not read here."""
    if settings.get("tokenizer_class") not in ("CLIPTokenizer", "CLIPTokenizerFast") or set(settings) - KNOWN:
        return False
    if (folder / "added_tokens.json").exists():
        return False
    mapped = folder / "special_tokens_map.json"
    others = json.loads(mapped.read_text(encoding="utf-8")) if mapped.is_file() else {}
    return all(name in SPECIAL and _text(token) == _text(settings.get(name)) for name, token in others.items())


def _vocabulary(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]], list[Any]]:
    """Vocabulary, merges and added tokens, from `tokenizer.json` where there is one.

    Raises:
        ValueError: when it is not a byte-pair encoding, or cuts or pads by itself.
    """
    whole = folder / "tokenizer.json"
    if whole.is_file():
        content = json.loads(whole.read_text(encoding="utf-8"))
        model = content["model"]
        if model["type"] != "BPE" or content["truncation"] or content["padding"]:
            raise ValueError
        return model["vocab"], [_pair(one) for one in model["merges"]], content["added_tokens"]
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    return vocab, [_pair(line) for line in lines if line and not line.startswith("#version")], []


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _text(token: Any) -> Any:
    return token["content"] if isinstance(token, dict) else token


def _token(given: str | Mapping[str, Any]) -> AddedToken:
    """A special token: its text, or its text and rules."""
    if isinstance(given, str):
        return AddedToken(given, special=True)
    flags: dict[str, Any] = {name: given[name] for name in FLAGS if name in given}
    return AddedToken(given["content"], **(flags | {"special": True}))
