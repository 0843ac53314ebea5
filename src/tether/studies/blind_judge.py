"""Ranks pictures by what they look like, without knowing what drew them: in place of people, who were not asked.

Two small networks of one kind:

- *quality* sees a picture, and was trained to tell real ones from sampled ones. Real ones went through the base's
  autoencoder first, as every sampled one has.
- *fidelity* sees a picture and a map of lines, and was trained on real pictures to tell whether the map is the
  picture's: other maps are another picture's, the own one mirrored, moved, or with a part of another in it.

Its accuracy on pictures that it was not trained on stands beside its ranks. Of the ways of a case the best has the
highest rank, as in the paper's user study (table 1 of arXiv:2302.05543).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

__all__ = ["Judge", "pixels_of", "ranks", "train_fidelity", "train_quality", "wrong_maps"]

WIDTHS = (24, 48, 64, 96)
BATCH, RATE = 32, 2e-3


class Judge(nn.Module):
    """Pictures `(B, C, H, W)` in [0, 1] -> logits `(B,)`.

    Args:
        channels: C: 3 for a picture, 4 with a map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, WIDTHS[0], 5, stride=2, padding=2), nn.SiLU()]
        for before, after in pairwise(WIDTHS):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(2 * WIDTHS[-1], 1)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.layers(2 * pictures - 1)
        return self.head(torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1))[:, 0]

    @torch.no_grad()
    def score(self, pictures: Tensor) -> np.ndarray:
        """Logits `(B,)` of pictures, in pieces, each the mean of the picture and its mirror image."""
        device = self.head.weight.device
        self.eval()
        pieces = [piece.to(device) for piece in pictures.split(BATCH)]
        return torch.cat([(self(one) + self(one.flip(3))) / 2 for one in pieces]).float().cpu().numpy()


def pixels_of(images: Sequence[Image.Image]) -> Tensor:
    """RGB images of one size -> `(B, 3, H, W)` in [0, 1]."""
    stacked = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255


def train_quality(
    real: Tensor,
    sampled: Tensor,
    steps: int,
    *,
    device: str = "cpu",
    seed: int = 0,
    on_step: Callable[[int, int], None] | None = None,
) -> Judge:
    """A judge that was trained to tell real pictures from sampled ones, half of each in a batch.

    Args:
        real, sampled: `(N, 3, H, W)` and `(M, 3, H, W)` in [0, 1].
        steps: of training.
        device: where.
        seed: of everything random.
        on_step: called with how many steps are done, and how many there are.
    """
    rng = torch.Generator().manual_seed(seed)

    def batch() -> tuple[Tensor, Tensor]:
        both = [one[torch.randint(len(one), (BATCH // 2,), generator=rng)] for one in (real, sampled)]
        return torch.cat(both), torch.cat([torch.ones(BATCH // 2), torch.zeros(BATCH // 2)])

    return _train(Judge(3), batch, steps, device, rng, on_step)


def train_fidelity(
    real: Tensor,
    maps: Tensor,
    steps: int,
    *,
    device: str = "cpu",
    seed: int = 0,
    on_step: Callable[[int, int], None] | None = None,
) -> Judge:
    """A judge that was trained to tell whether a map is a picture's, on real pictures; see the module.

    Args:
        real: `(N, 3, H, W)` in [0, 1].
        maps: of the same pictures, `(N, 1, H, W)` in [0, 1].
        steps, device, seed, on_step: as for `train_quality`.
    """
    rng = torch.Generator().manual_seed(seed)

    def batch() -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(real), (BATCH,), generator=rng)
        half = BATCH // 2
        shown = torch.cat([maps[chosen[:half]], wrong_maps(maps, chosen[half:], rng)])
        return torch.cat([real[chosen], shown], dim=1), torch.cat([torch.ones(half), torch.zeros(BATCH - half)])

    return _train(Judge(4), batch, steps, device, rng, on_step)


def wrong_maps(maps: Tensor, chosen: Tensor, rng: torch.Generator) -> Tensor:
    """For each of the chosen pictures a map `(B, 1, H, W)` that is not its own: of another, mirrored, moved by 4 to 16
    pixels, or with one half of another's."""
    others = maps[(chosen + torch.randint(1, max(2, len(maps)), chosen.shape, generator=rng)) % len(maps)]
    wrong = others.clone()
    ways = torch.randint(4, chosen.shape, generator=rng)
    for k, (own, way) in enumerate(zip(maps[chosen], ways.tolist(), strict=True)):
        if way == 1:
            wrong[k] = own.flip(2)
        elif way == 2:
            shift = torch.randint(4, 17, (2,), generator=rng) * (2 * torch.randint(2, (2,), generator=rng) - 1)
            wrong[k] = own.roll(shift.tolist(), dims=(1, 2))
        elif way == 3:
            wrong[k, :, : own.shape[1] // 2] = own[:, : own.shape[1] // 2]
    return wrong


def ranks(scores: Sequence[Sequence[float] | np.ndarray]) -> np.ndarray:
    """Ranks `(N, C)` of N ways in C cases by their scores: 1 for the lowest, N for the highest, ties by their mean."""
    table = np.asarray(scores, np.float64)
    below = (table[None] < table[:, None]).sum(axis=1)
    equal = (table[None] == table[:, None]).sum(axis=1)
    return below + (equal + 1) / 2


def _train(
    judge: Judge,
    batch: Callable[[], tuple[Tensor, Tensor]],
    steps: int,
    device: str,
    rng: torch.Generator,
    on_step: Callable[[int, int], None] | None,
) -> Judge:
    """Trains by AdamW with a falling rate; pictures are mirrored, with a little noise and other brightness."""
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (), generator=rng)))
        for module in judge.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.reset_parameters()
    judge.to(device).train()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=RATE, weight_decay=0.05)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        pictures, wanted = batch()
        if torch.rand((), generator=rng) < 0.5:
            pictures = pictures.flip(3)
        lighter = 1 + 0.2 * (torch.rand(len(pictures), 1, 1, 1, generator=rng) - 0.5)
        noise = 0.02 * torch.randn(pictures[:, :3].shape, generator=rng)
        pictures = torch.cat([pictures[:, :3] * lighter + noise, pictures[:, 3:]], dim=1)
        loss = binary_cross_entropy_with_logits(judge(pictures.to(device)), wanted.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        falling.step()
        if on_step is not None:
            on_step(step + 1, steps)
    return judge.eval()
