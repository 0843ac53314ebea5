"""Trains the small contrastive model of pictures and words, `tether.evaluation.contrast`, on the set emoji3d.

    python recipes/contrast.py train                     # runs/contrast/model
    python recipes/contrast.py measure runs/contrast/model
    tether evaluate canny --contrast runs/contrast/model

A batch has as many different names as it has pictures, so that no two captions of it are the same thing. Held-out names
are not trained on; `measure` says how often the right one of their captions, and of their names alone, is found.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tether.datasets.synthetic.emoji3d import Emoji3D
from tether.evaluation.contrast import SIDE, Contrast, load_contrast


def drawn(placements: int, held_out: bool) -> tuple[Tensor, list[str], list[str]]:
    """Pictures uint8 `(N, 3, 64, 64)`, captions, and names; each name once, then each again, otherwise placed."""
    source = Emoji3D(SIDE, None, held_out)
    count = placements * len(source.drawings)
    source = Emoji3D(SIDE, count, held_out)
    samples = [source.sample(index) for index in range(count)]
    pixels = torch.from_numpy(np.stack([np.asarray(sample.image) for sample in samples])).permute(0, 3, 1, 2)
    names = [source.drawings[index % len(source.drawings)].name for index in range(count)]
    return pixels.contiguous(), [sample.caption for sample in samples], names


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    pixels, captions, names = drawn(8, held_out=False)
    each = len(set(names))
    model = Contrast().to(arguments.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr, weight_decay=0.1)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, arguments.lr, total_steps=arguments.steps)
    for step in range(arguments.steps):
        chosen = rng.choice(each, arguments.batch, replace=False) + each * rng.integers(8, size=arguments.batch)
        shown = pixels[torch.from_numpy(chosen)].float() / 255
        if rng.random() < 0.5:
            shown = shown.flip(3)
        shown = shown * (1 + 0.1 * torch.randn(len(shown), 1, 1, 1)) + 0.02 * torch.randn_like(shown)
        loss = model.loss(shown.to(arguments.device), [captions[k] for k in chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        falling.step()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} of {arguments.steps}: loss {loss.item():.3f}", flush=True)
    model.save(arguments.out / "model")
    print(arguments.out / "model")


@torch.no_grad()
def retrieval(model: Contrast, pixels: Tensor, texts: list[str]) -> dict[int, float]:
    """How often the right text of all is the first, or among the first five, for a picture."""
    seen = torch.cat([model.see(part.float() / 255) for part in pixels.split(64)])
    similar = seen @ model.read(texts).t()
    place = (similar > similar.diagonal()[:, None]).sum(dim=1)
    return {first: float((place < first).float().mean()) for first in (1, 5)}


def measure(folder: Path) -> None:
    model = load_contrast(folder)
    held = drawn(1, held_out=True)
    for what, (pixels, captions, names) in (
        ("held-out names", held),
        ("names of the training, placed as there", drawn(1, held_out=False)),
    ):
        count = len(held[0])  # as many of both, from all sorts
        some = [k * len(names) // count for k in range(count)]
        listed = [captions[k] for k in some], [f"a {names[k]}" for k in some]
        for texts, kind in zip(listed, ("captions", "names alone"), strict=True):
            found = retrieval(model, pixels[some], texts)
            share = ", ".join(f"{value:.1%} in the first {first}" for first, value in found.items())
            print(f"{what}, {len(texts)} {kind}: {share}; by chance {1 / len(texts):.1%} and {5 / len(texts):.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "measure"))
    parser.add_argument("model", type=Path, nargs="?", default=Path("runs/contrast/model"), help="of measure")
    parser.add_argument("--out", type=Path, default=Path("runs/contrast"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    train(arguments) if arguments.what == "train" else measure(arguments.model)


if __name__ == "__main__":
    main()
