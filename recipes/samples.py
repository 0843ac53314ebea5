"""Random batches of the encoded training images, drawn from tensors that are whole on the device."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from grounding import word_groups


@dataclass
class Batch:
    """What a step trains on; the scenes are last.

    Attributes:
        latents: clean ones, `(B, 4, h, w)` float32, channels last.
        tokens: of the captions, `(B, T)`.
        words: which tokens of a scene's caption are words of which group, bool `(S, GROUPS, T)`, see grounding.py.
        masks: where the groups are, in [0, 1], `(S, GROUPS, h', w')`.
    """

    latents: Tensor
    tokens: Tensor
    words: Tensor
    masks: Tensor


class Samples:
    """A file of recipes/latents.py with the tokens of its captions, on a device.

    Args:
        pack: the file.
        scenes: recipes/render_scenes.py's, for where things are.
        shares: how often a sample is of which group of the file; they add up to 1.
        length: tokens of a caption, filled up; at most 63.
    """

    def __init__(
        self,
        pack: Path,
        scenes: Path,
        tokenizer: CLIPTokenizer,
        shares: dict[str, float],
        *,
        length: int,
        device: torch.device,
    ) -> None:
        assert length < 64, length  # their places are the bits of a number
        self.device, self.shares = device, shares
        with np.load(pack) as file:
            self.latents = torch.from_numpy(file["latents"]).to(device, memory_format=torch.channels_last)
            captions, self.counts = json.loads(str(file["captions"])), json.loads(str(file["counts"]))
        with np.load(scenes) as file:
            self.places = torch.from_numpy(file["places"]).to(device)
        assert [*self.counts.items()][-1] == ("scenes", len(self.places)), self.counts
        self.tokens = torch.from_numpy(_tokens(captions, tokenizer, length)).to(device)
        self.empty = torch.from_numpy(_tokens([[""]], tokenizer, length)).to(device)[0, 0]
        first = len(captions) - self.counts["scenes"]
        self.words = torch.from_numpy(_words(captions[first:], tokenizer, length)).to(device)
        self.bits = torch.arange(length, device=device)

    def draw(self, size: int, empty: float, generator: torch.Generator) -> Batch:
        """A batch of `size` with each group's share of it, and a share `empty` of the captions emptied.

        `generator` is on the device, and the batch follows from its state alone.
        """
        device, rows, start, left = self.device, [], 0, size
        for group, count in self.counts.items():
            number = left if group == "scenes" else min(left, round(size * self.shares[group]))
            rows.append(start + torch.randint(count, (number,), device=device, generator=generator))
            start, left = start + count, left - number
        row = torch.cat(rows)
        which = torch.randint(self.tokens.shape[1], (size,), device=device, generator=generator)
        kept = torch.rand(size, device=device, generator=generator) >= empty
        tokens = torch.where(kept[:, None], self.tokens[row, which], self.empty).long()
        emoji = size - len(rows[-1])
        scene = row[emoji:] - (start - self.counts["scenes"])
        words = (self.words[scene, which[emoji:]][..., None] >> self.bits & 1).bool() & kept[emoji:, None, None]
        latents = self.latents[row].float().contiguous(memory_format=torch.channels_last)
        return Batch(latents, tokens, words, self.places[scene].float() / 255)


def _tokens(captions: list[list[str]], tokenizer: CLIPTokenizer, length: int) -> np.ndarray:
    """Captions, as many a row -> int16 `(N, C, length)`."""
    distinct = {words: k for k, words in enumerate(dict.fromkeys(words for row in captions for words in row))}
    ids = tokenizer(list(distinct), padding="max_length", max_length=length, truncation=True).input_ids
    return np.array(ids, np.int16)[[[distinct[words] for words in row] for row in captions]]


def _words(captions: list[list[str]], tokenizer: CLIPTokenizer, length: int) -> np.ndarray:
    """Scenes' captions -> the tokens of each group as the bits of an int64, `(S, C, GROUPS)`."""
    distinct = list(dict.fromkeys(words for row in captions for words in row))
    places = tokenizer(distinct, return_offsets_mapping=True).offset_mapping
    power = 1 << np.arange(length, dtype=np.int64)
    bits = {words: word_groups(words, offsets, length) @ power for words, offsets in zip(distinct, places, strict=True)}
    return np.array([[bits[words] for words in row] for row in captions])
