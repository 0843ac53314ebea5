"""Builds the tiny data set on which the recipe of the shipped control was recorded, `recipe-latents.npz` and
`recipe-scenes.npz`.

    PYTHONPATH=recipes python tests/golden/recipe_inputs.py

They have the format of recipes/latents.py and recipes/render_scenes.py: 24 rendered scenes, of which the first 14 stand
in for emoji (the recipe wants its four groups) under captions of emoji. The files are kept beside this script because
the latents were rounded by one machine's autoencoder.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from tether.annotators.canny import random_canny
from tether.datasets.scenes import caption, render, sample_scene

import tether
from grounding import covered

HERE = Path(__file__).parent
COUNTS = {"3d emoji": 6, "flat emoji": 3, "other emoji": 5, "scenes": 10}
EDGES, CAPTIONS, SIZE = 4, 6, 128
THINGS = ("apple", "house", "mouse face", "lock", "bell", "bear", "star")


def emoji_captions(number: int) -> list[str]:
    style = "3d emoji" if number < 6 or number > 8 else "flat emoji"
    thing = THINGS[number % len(THINGS)]
    grounds = ("white", "blue", "red", "pink", "green", "yellow")
    return [f"a {thing}, {style}" + (f", {ground} background" if k % 2 else "") for k, ground in enumerate(grounds)]


def edge_maps(number: int, picture: np.ndarray) -> np.ndarray:
    """As recipes/latents.py: random edge maps of one picture, one bit a pixel, uint8 `(EDGES, H, W / 8)`."""
    rng = np.random.default_rng([9, number])
    return np.packbits(np.stack([random_canny(picture, rng) for _ in range(EDGES)]) > 0, axis=2)


def main() -> None:
    torch.set_num_threads(1)
    base = tether.load_base()
    emoji = sum(COUNTS.values()) - COUNTS["scenes"]
    pixels, places, captions = [], [], [emoji_captions(k) for k in range(emoji)]
    for k in range(sum(COUNTS.values())):
        spec = sample_scene(k)
        scene = render(spec, SIZE)
        pixels.append(scene.image)
        if k >= emoji:
            rng = np.random.default_rng([1, k])
            places.append(covered(scene.instance))
            captions.append([caption(spec, rng) for _ in range(CAPTIONS)])
    pictures = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = torch.cat([base.encode_pictures(one[None]) for one in pictures])
    np.savez_compressed(
        HERE / "recipe-latents.npz",
        latents=latents.half().numpy(),
        captions=np.array(json.dumps(captions)),
        counts=np.array(json.dumps(COUNTS)),
        edges=np.stack([edge_maps(k, picture) for k, picture in enumerate(pixels)]),
    )
    np.savez_compressed(HERE / "recipe-scenes.npz", places=np.stack(places))


if __name__ == "__main__":
    main()
