"""Draws the images that the autoencoder is trained on: data/pictures.npz, of a file of plans and of the scenes.

python recipes/pictures.py --mixture data/mixture-wide.npz          (after mixture.py and render_scenes.py)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from common import DATA
from compositing import Compositor

BATCH = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--mixture", type=Path, default=DATA / "mixture-wide.npz")
    parser.add_argument("--scenes", type=Path, default=DATA / "scenes.npz")
    parser.add_argument("--count", type=int, default=36_000, help="of the plans at most, a random choice")
    parser.add_argument("--out", type=Path, default=DATA / "pictures.npz")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    arguments = parser.parse_args()
    compositor = Compositor(arguments.data / "bank.npz", arguments.mixture, arguments.device)
    order = np.random.default_rng(5).permutation(len(compositor))[: arguments.count]
    rows = torch.from_numpy(np.sort(order)).to(arguments.device)
    drawn = np.concatenate([compositor.draw(part)[0].cpu().numpy() for part in rows.split(BATCH)])
    with np.load(arguments.scenes) as pack:
        pixels = np.concatenate([drawn, pack["pixels"]])
    np.savez(arguments.out, pixels=pixels)
    print(f"{arguments.out}: {len(drawn)} composed images, {len(pixels) - len(drawn)} scenes")


if __name__ == "__main__":
    main()
