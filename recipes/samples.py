"""Random batches of the encoded training images, drawn from tensors that are whole on the training's device."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from grounding import Span, word_groups

CAPTIONS = 4
"""Captions of each image."""
TOKENS = 48
"""Tokens of a caption, filled up; their places are the bits of a number, so at most 63."""
GROUNDED = ("pairs", "scenes")
"""Groups of images of which it is known where the things are; they are last, in files and in batches."""


@dataclass
class Batch:
    """What a step trains on; the grounded images are last.

    Attributes:
        latents: clean ones, `(B, 4, h, w)` float32, channels last.
        tokens: of the captions, `(B, T)`.
        words: which tokens of a caption are words of which group, bool `(S, GROUPS, T)`, see grounding.py.
        masks: where the groups are, in [0, 1], `(S, GROUPS, h', w')`.
    """

    latents: Tensor
    tokens: Tensor
    words: Tensor
    masks: Tensor


class Samples:
    """A packed latents file of recipes/latents.py on a device; that recipe says what is in it.

    Args:
        pack: the file.
        empty: tokens of the empty caption, `(T,)`.
        shares: how often a sample is of which group of the file; they add up to 1.
        device: where the tensors are put.
    """

    def __init__(self, pack: Path, empty: list[int], shares: dict[str, float], *, device: torch.device) -> None:
        self.device, self.shares = device, shares
        with np.load(pack) as file:
            self.latents = torch.from_numpy(file["latents"]).to(device, memory_format=torch.channels_last)
            self.tokens, self.words, self.places = (
                torch.from_numpy(file[name]).to(device) for name in ("tokens", "words", "places")
            )
            self.counts: dict[str, int] = json.loads(str(file["counts"]))
        assert tuple(self.counts)[-len(GROUNDED) :] == GROUNDED, self.counts
        assert shares.keys() == self.counts.keys(), self.counts
        self.empty = torch.tensor(empty, device=device)
        self.bits = torch.arange(len(empty), device=device)

    def draw(self, size: int, empty: float, generator: torch.Generator) -> Batch:
        """A batch of `size` with each group's share of it, and a share `empty` of the captions emptied.

        `generator` is on the device, and the batch follows from its state alone.
        """
        device, rows, start, left = self.device, [], 0, size
        for group, count in self.counts.items():
            number = left if group == GROUNDED[-1] else min(left, round(size * self.shares[group]))
            rows.append(start + torch.randint(count, (number,), device=device, generator=generator))
            start, left = start + count, left - number
        row = torch.cat(rows)
        which = torch.randint(self.tokens.shape[1], (size,), device=device, generator=generator)
        kept = torch.rand(size, device=device, generator=generator) >= empty
        tokens = torch.where(kept[:, None], self.tokens[row, which], self.empty).long()
        others = size - sum(len(part) for part in rows[-len(GROUNDED) :])
        grounded = row[others:] - (start - len(self.places))
        words = (self.words[grounded, which[others:]][..., None] >> self.bits & 1).bool() & kept[others:, None, None]
        latents = self.latents[row].float().contiguous(memory_format=torch.channels_last)
        return Batch(latents, tokens, words, self.places[grounded].float() / 255)


def tokenize(captions: list[tuple[str, list[Span]]], tokenizer: CLIPTokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of captions, and which of them are words of which group.

    Args:
        captions: each with the groups of its words (`words.unmark`, `grounding.scene_spans`).
        tokenizer: the base's.

    Returns:
        The tokens, int16 `(N, TOKENS)`, and for each group its tokens' places as the bits of an int64, `(N, GROUPS)`.
    """
    texts = [caption for caption, _ in captions]
    found = tokenizer(texts, padding="max_length", max_length=TOKENS, truncation=True, return_offsets_mapping=True)
    power = 1 << np.arange(TOKENS, dtype=np.int64)
    rows = zip(found.offset_mapping, captions, strict=True)
    words = np.array([word_groups(spans, offsets, TOKENS) @ power for offsets, (_, spans) in rows])
    return np.array(found.input_ids, np.int16), words
