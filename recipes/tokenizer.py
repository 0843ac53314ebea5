"""Trains the shipped base's byte-pair tokenizer on captions. The first edition's is kept since, as weights go by it.

python recipes/tokenizer.py captions.txt --out runs/tokenizer           (a caption a line)
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from samples import TOKENS
from tether.files.writing import write_tokenizer


def train_tokenizer(captions: list[str], folder: Path) -> None:
    """A byte-pair tokenizer of CLIP's kind (lower case, "</w>" ends a word), 3,000 entries, from the captions."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = CLIPTokenizer().backend_tokenizer.normalizer
    bpe.pre_tokenizer = CLIPTokenizer().backend_tokenizer.pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2998, initial_alphabet=alphabet, end_of_word_suffix="</w>")
    bpe.train_from_iterator(captions, trainer)
    model = json.loads(bpe.to_str())["model"]
    vocabulary = dict(model["vocab"])
    for symbol in sorted(alphabet):  # a single last letter must have an entry too
        vocabulary.setdefault(symbol + "</w>", len(vocabulary))
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)
    write_tokenizer(folder, tokenizer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("captions", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/tokenizer"))
    arguments = parser.parse_args()
    train_tokenizer(arguments.captions.read_text().splitlines(), arguments.out)


if __name__ == "__main__":
    main()
