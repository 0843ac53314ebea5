"""CLIP's tokenizer, from the vocabulary that OpenAI published with it (MIT, see LICENSE.txt beside this file).

The file is the published one, byte for byte. Its first 48,894 merges define the vocabulary of 49,408 entries: 256
bytes, the same 256 at the end of a word, one word piece per merge, and the start and end tokens.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

__all__ = ["END", "START", "clip_tokenizer", "vocabulary"]

FILE = Path(__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
MERGES = 49408 - 2 * 256 - 2
START, END = "<|startoftext|>", "<|endoftext|>"


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token -> id, and the pairs that are merged, in their order."""
    lines = gzip.decompress(FILE.read_bytes()).decode("utf-8").split("\n")
    merges: list[tuple[str, str]] = [tuple(line.split()) for line in lines[1 : 1 + MERGES]]  # type: ignore[misc]
    # Printable bytes are written as themselves and come first; the others are written as U+0100 and up.
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printing] + [chr(256 + k) for k in range(256 - len(printing))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge) for merge in merges), START, END]
    return {word: k for k, word in enumerate(words)}, merges


def clip_tokenizer(pad_token: str = END) -> CLIPTokenizer:
    """The tokenizer of every Stable Diffusion, made without a download.

    Args:
        pad_token: pads a prompt to 77 tokens: the end token for CLIP, "!" (entry 0) for OpenCLIP.
    """
    from transformers import CLIPTokenizer

    vocab, merges = vocabulary()
    return CLIPTokenizer(
        vocab=vocab,
        merges=merges,  # type: ignore[arg-type]
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=pad_token,
        model_max_length=77,
    )
