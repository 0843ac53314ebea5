"""CLIP's tokenizer, from the vocabulary that OpenAI published with it (MIT, see LICENSE.txt beside this file).

The file is the published one, byte for byte. Its first 48,894 merges are the vocabulary: 256 bytes, the same at the end
of a word, one word piece a merge, and the two marks of start and end; 49,408 entries.
"""

from __future__ import annotations

import gzip
from pathlib import Path

from transformers import CLIPTokenizer

__all__ = ["clip_tokenizer"]

FILE = Path(__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
MERGES = 49408 - 2 * 256 - 2
START, END = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizer(pad_token: str = END) -> CLIPTokenizer:
    """The tokenizer of every Stable Diffusion, without a network.

    Args:
        pad_token: what fills a prompt up to 77 tokens: the end mark for CLIP, "!" (entry 0) for OpenCLIP.
    """
    lines = gzip.decompress(FILE.read_bytes()).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 1 + MERGES]]
    # Bytes that print stand for themselves and come first; the others take the letters from U+0100 on.
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printing] + [chr(256 + k) for k in range(256 - len(printing))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge) for merge in merges), START, END]
    return CLIPTokenizer(
        vocab={word: k for k, word in enumerate(words)},
        merges=merges,  # type: ignore[arg-type]
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=pad_token,
        model_max_length=77,
    )
