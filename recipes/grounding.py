"""A second loss, on scenes and pairs: where a thing is, cross-attention should look at its words, not at another's.

The pixels' loss alone hardly teaches which color belongs to which thing: at noise strong enough to leave colors open,
shapes are open too, and where shapes can be seen, so can their colors. The ray tracer and the plans know where
everything is, which makes the attention itself a target ("TokenCompose", arXiv:2312.03626; theirs is a mean over a
map, ours is a cross-entropy at each place). With A_k(q) the attention at place q, a mean over heads, summed over the
words of group k (a thing, the floor or the background), and M_k(q) the share of q that it covers:

    L = - mean_q Σ_k M_k(q) log(A_k(q) / Σ_j A_j(q)),   over the groups that the caption names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tether.base import Base
from tether.datasets.synthetic.scenes import COLORS, MATERIALS, SHAPES
from tether.errors import TetherError
from tether.training.batch import Batch

GROUPS = 6
"""Background, floor, and up to four things, as a scene's instance numbers."""
PLACES = 8
"""Side of the finest map of cross-attention in the denoiser."""
NOUNS = (*SHAPES, "mannequin", "floor", "background")
WORDS = re.compile(rf"(?:(?:{'|'.join(MATERIALS)}) )?(?:{'|'.join(COLORS)}) ({'|'.join(NOUNS)})")

Span = tuple[int, int, int]
"""A group, and where its words begin and end in a caption."""
FindGroups = Callable[[int, str], np.ndarray]
"""Which tokens of a grounded image's caption are words of which group, bool `(GROUPS, T)`."""


def covered(instance: np.ndarray) -> np.ndarray:
    """Instance numbers `(H, W)` -> the share of each place that each group covers, uint8 `(GROUPS, PLACES, PLACES)`."""
    side = instance.shape[0] // PLACES
    one_hot = (instance == np.arange(GROUPS)[:, None, None]).reshape(GROUPS, PLACES, side, PLACES, side)
    return np.round(255 * one_hot.mean(axis=(2, 4))).astype(np.uint8)


def scene_spans(caption: str) -> list[Span]:
    """Which words of a scene's caption mean which group; things come in order."""
    spans, thing = [], 2
    for match in WORDS.finditer(caption):
        if match[1] in ("background", "floor"):
            group = int(match[1] == "floor")
        else:
            group, thing = thing, thing + 1
        spans.append((group, match.start(), match.end()))
    return spans


def word_groups(spans: list[Span], offsets: list[tuple[int, int]], length: int) -> np.ndarray:
    """Which tokens are words of which group, bool `(GROUPS, length)`; `offsets` are their beginnings and ends."""
    groups = np.zeros((GROUPS, length), bool)
    for group, first, last in spans:
        inside = [first <= start < end <= last for start, end in offsets[:length]]
        groups[group, : len(inside)] |= inside
    return groups


class Grounding:
    """Observes every cross-attention of a denoiser or a control; `loss` is that of its latest forward pass."""

    def __init__(self, network: nn.Module) -> None:
        self.layers: list[Any] = [module for name, module in network.named_modules() if name.endswith(".attn2")]
        self.seen: dict[nn.Module, Tensor] = {}
        for layer in self.layers:
            for part in (layer.to_q, layer.to_k):
                part.register_forward_hook(self._see)

    def _see(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        self.seen[module] = output

    def loss(self, words: Tensor, masks: Tensor, samples: Tensor | slice | None = None) -> Tensor:
        """The mean over layers; images without words do not count.

        Args:
            words: which tokens are words of which group, bool `(S, GROUPS, T)`.
            masks: the share of each place that a group covers, `(S, GROUPS, PLACES, PLACES)`.
            samples: which samples of the batch are grounded; by default its last S.
        """
        named = words.any(dim=2)[:, :, None, None]
        losses = []
        for layer in self.layers:
            q, k = (
                part[slice(len(part) - len(words), None) if samples is None else samples]
                .unflatten(2, (layer.heads, -1))
                .transpose(1, 2)
                .float()
                for part in (self.seen[layer.to_q], self.seen[layer.to_k])
            )
            attention = (q @ k.transpose(2, 3) * layer.scale).softmax(dim=3).mean(dim=1)
            side = round(q.shape[2] ** 0.5)
            shares = (words.float() @ attention.transpose(1, 2)).unflatten(2, (side, side))
            target = nn.functional.adaptive_avg_pool2d(masks, side) * named
            logs = ((shares + 1e-6) / (shares.sum(dim=1, keepdim=True) + 1e-6)).log()
            losses.append(-(target * logs).sum() / target.sum().clamp(min=1))
        return torch.stack(losses).mean()


class SceneGrounding:
    """The loss as an auxiliary loss of `tether train` (`tether.training.auxiliary`), on a packed latents file.

    Args:
        control: what is trained.
        base: for its tokenizer.
        latents: the packed latents file, of recipes/latents.py: it has words and places of its last rows.
        scenes: recipes/render_scenes.py's file, for a packed file without them: its last group, "scenes", has the same
            scenes.

    Raises:
        TetherError: when it is not known where the things are.
    """

    def __init__(self, control: nn.Module, base: Base, latents: str, scenes: str | None = None) -> None:
        self.grounding, length = Grounding(control), base.tokenizer.model_max_length
        with np.load(latents) as file:
            counts = json.loads(str(file["counts"]))
            places = file["places"] if "places" in file else _places_of(scenes, latents, counts)
            self.first: int = sum(counts.values()) - len(places)
            if "words" in file:
                captions = json.loads(str(file["captions"]))[self.first :]
                self._groups = stored_groups(captions, file["words"], length)
            else:
                self._groups = scene_groups(base.tokenizer, length)
        self.places = torch.from_numpy(places)

    def __call__(self, batch: Batch) -> Tensor:
        """The loss of the forward pass that has just been run on the batch, a scalar."""
        device = batch.latents.device
        index = [k for k, row in enumerate(batch.rows) if row >= self.first]
        if not index:
            return batch.latents.new_zeros(())
        rows = [batch.rows[k] - self.first for k in index]
        groups = [self._groups(row, batch.captions[k]) for row, k in zip(rows, index, strict=True)]
        words, masks = torch.from_numpy(np.stack(groups)), self.places[rows].float() / 255
        return self.grounding.loss(words.to(device), masks.to(device), torch.tensor(index, device=device))


def _places_of(scenes: str | None, latents: str, counts: dict[str, int]) -> np.ndarray:
    """Where the things of the scenes are, uint8 `(S, GROUPS, PLACES, PLACES)`."""
    if scenes is None:
        raise TetherError(f"{latents} does not say where things are: give the option scenes, a file of scenes")
    with np.load(scenes) as file:
        places = file["places"]
    if list(counts)[-1] != "scenes" or counts["scenes"] != len(places):
        raise TetherError(f"the last group of {latents} is not the {len(places)} scenes of {scenes}")
    return places


def stored_groups(captions: list[list[str]], words: np.ndarray, length: int) -> FindGroups:
    """Reads the groups from `words`, int64 `(S, C, GROUPS)`: the places of a group's tokens as bits."""
    bits = np.arange(length)

    def find(row: int, caption: str) -> np.ndarray:
        if not caption:
            return np.zeros((GROUPS, length), bool)
        return (words[row, captions[row].index(caption)][:, None] >> bits & 1).astype(bool)

    return find


def scene_groups(tokenizer: Any, length: int) -> FindGroups:
    """Finds the groups in the captions of scenes."""

    @lru_cache(maxsize=100_000)
    def groups(caption: str) -> np.ndarray:
        offsets = tokenizer(caption, return_offsets_mapping=True).offset_mapping
        return word_groups(scene_spans(caption), offsets, length)

    return lambda row, caption: groups(caption)
