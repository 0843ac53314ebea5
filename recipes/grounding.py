"""A second loss on scenes: where a thing lies, cross-attention shall look at its words and not at another thing's.

The pixels' loss alone hardly teaches which colour belongs to which thing: where the noise is strong enough for colours
to be open, so are the shapes, and where shapes can be seen, so can their colours. Our ray tracer knows where everything
lies, which makes the attention itself a target (Wang et al. 2023, "TokenCompose", 2312.03626; theirs is a mean over a
map, ours is a cross-entropy at each place). With A_k(q) the attention at place q, a mean over heads, summed over the
words of group k (a thing, the floor or the background), and M_k(q) the share of q that it covers:

    L = - mean_q Σ_k M_k(q) log(A_k(q) / Σ_j A_j(q)),   over the groups that the caption names.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor, nn

from tether.datasets.synthetic.scenes import COLORS, MATERIALS, SHAPES

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
    """Listens to every cross-attention of a denoiser or a control; `loss` is that of its latest forward pass."""

    def __init__(self, network: nn.Module) -> None:
        self.layers = [module for name, module in network.named_modules() if name.endswith(".attn2")]
        self.heard: dict[nn.Module, Tensor] = {}
        for layer in self.layers:
            for part in (layer.to_q, layer.to_k):
                part.register_forward_hook(self._hear)

    def _hear(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        self.heard[module] = output

    def loss(self, words: Tensor, masks: Tensor) -> Tensor:
        """The mean over layers; the scenes are the batch's last S samples, and those without words count for nothing.

        Args:
            words: which tokens are words of which group, bool `(S, GROUPS, T)`.
            masks: the share of each place that a group covers, `(S, GROUPS, PLACES, PLACES)`.
        """
        named = words.any(dim=2)[:, :, None, None]
        losses = []
        for layer in self.layers:
            q, k = (
                part[len(part) - len(words) :].unflatten(2, (layer.heads, -1)).transpose(1, 2).float()
                for part in (self.heard[layer.to_q], self.heard[layer.to_k])
            )
            attention = (q @ k.transpose(2, 3) * layer.scale).softmax(dim=3).mean(dim=1)
            side = round(q.shape[2] ** 0.5)
            shares = (words.float() @ attention.transpose(1, 2)).unflatten(2, (side, side))
            target = nn.functional.adaptive_avg_pool2d(masks, side) * named
            logs = ((shares + 1e-6) / (shares.sum(dim=1, keepdim=True) + 1e-6)).log()
            losses.append(-(target * logs).sum() / target.sum().clamp(min=1))
        return torch.stack(losses).mean()
