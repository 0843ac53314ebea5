"""Draws everyday prompts with four seeds each: samples.png, and how much the seeds' images differ.

python recipes/gpu_samples.py --base runs/base
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch

import tether
from tether.images import contact_sheet, save_png

PROMPTS = (
    "a cat",
    "two apples",
    "a blue cup on a table",
    "a small house with a red roof",
    "a brown dog standing",
    "a rocket in space",
    "a red car",
    "a green tree on grass",
    "a cat and a dog",
    "a red apple next to a blue book",
    "a cat, 3d emoji",
    "a puppy, flat emoji, yellow background",
    "three stars",
    "a purple fish in the sea",
    "a shiny red cube left of a matte blue sphere on a grey floor, white background, 3d scene",
    "a red mannequin waving on a grey floor, 3d scene",
)
SEEDS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="tether")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    arguments = parser.parse_args()
    base = tether.load_base(str(arguments.base))
    base.to(arguments.device)
    pipe, rows = tether.Pipeline(base), []
    for prompt in PROMPTS:
        drawn = [pipe(prompt, seed=seed, guidance_scale=4.0)[0] for seed in range(SEEDS)]
        arrays = [np.asarray(picture, float) for picture in drawn]
        apart = np.mean([np.abs(a - b).mean() for a, b in itertools.combinations(arrays, 2)])
        print(f"{apart:5.1f} of 255 between seeds: {prompt}", flush=True)
        rows.append(drawn)
        save_png(contact_sheet(rows), arguments.out / "samples.png", {})


if __name__ == "__main__":
    main()
