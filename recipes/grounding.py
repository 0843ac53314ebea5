"""A second loss on scenes: where a thing is, cross-attention should look at its words and not at another thing's.

The pixels' loss alone hardly teaches which color belongs to which thing: at noise strong enough to leave colors open,
shapes are open too, and where shapes can be seen, so can their colors. Our ray tracer knows where everything is, which
makes the attention itself a target ("TokenCompose", arXiv:2312.03626; theirs is a mean over a map, ours is a
cross-entropy at each place). With A_k(q) the attention at place q, a mean over heads, summed over the words of group k
(a thing, the floor or the background), and M_k(q) the share of q that it covers:

    L = - mean_q Σ_k M_k(q) log(A_k(q) / Σ_j A_j(q)),   over the groups that the caption names.
"""

from __future__ import annotations

import json
import re
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


def covered(instance: np.ndarray) -> np.ndarray:
    """Instance numbers `(H, W)` -> the share of each place that each group covers, uint8 `(GROUPS, PLACES, PLACES)`."""
    side = instance.shape[0] // PLACES
    one_hot = (instance == np.arange(GROUPS)[:, None, None]).reshape(GROUPS, PLACES, side, PLACES, side)
    return np.round(255 * one_hot.mean(axis=(2, 4))).astype(np.uint8)


def word_groups(caption: str, offsets: list[tuple[int, int]], length: int) -> np.ndarray:
    """Which tokens of a scene's caption are words of which group, bool `(GROUPS, length)`; things come in order.

    `offsets` are the tokens' beginnings and ends in the caption.
    """
    groups, thing = np.zeros((GROUPS, length), bool), 2
    for match in WORDS.finditer(caption):
        if match[1] in ("background", "floor"):
            group = int(match[1] == "floor")
        else:
            group, thing = thing, thing + 1
        inside = [match.start() <= start and end <= match.end() and start < end for start, end in offsets]
        groups[group, : len(inside)] = inside[:length]
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
        """The mean over layers; scenes without words do not count.

        Args:
            words: which tokens are words of which group, bool `(S, GROUPS, T)`.
            masks: the share of each place that a group covers, `(S, GROUPS, PLACES, PLACES)`.
            samples: which samples of the batch are the scenes; by default its last S.
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
        scenes: recipes/render_scenes.py's file: where things are.
        latents: the packed latents file; its last group, "scenes", has the same scenes.
    """

    def __init__(self, control: nn.Module, base: Base, scenes: str, latents: str) -> None:
        self.grounding, self.tokenizer = Grounding(control), base.tokenizer
        self.length: int = base.tokenizer.model_max_length
        with np.load(scenes) as file:
            self.places = torch.from_numpy(file["places"])
        with np.load(latents) as file:
            counts = json.loads(str(file["counts"]))
        if list(counts)[-1] != "scenes" or counts["scenes"] != len(self.places):
            raise TetherError(f"the last group of {latents} is not the {len(self.places)} scenes of {scenes}")
        self.first = sum(counts.values()) - counts["scenes"]
        self._groups = lru_cache(maxsize=100_000)(self._find_groups)

    def __call__(self, batch: Batch) -> Tensor:
        """The loss of the forward pass that has just been run on the batch, a scalar."""
        device = batch.latents.device
        index = [k for k, row in enumerate(batch.rows) if row >= self.first]
        words = torch.from_numpy(np.stack([self._groups(batch.captions[k]) for k in index])) if index else None
        if words is None:
            return batch.latents.new_zeros(())
        masks = self.places[[batch.rows[k] - self.first for k in index]].float() / 255
        return self.grounding.loss(words.to(device), masks.to(device), torch.tensor(index, device=device))

    def _find_groups(self, caption: str) -> np.ndarray:
        offsets = self.tokenizer(caption, return_offsets_mapping=True).offset_mapping
        return word_groups(caption, offsets, self.length)
