"""Renders the scenes: data/scenes.npz for training, and data/scenes-held-out.npz, which training never sees.

python recipes/render_scenes.py --count 5000
"""

from __future__ import annotations

import argparse
import json
from multiprocessing import Pool
from pathlib import Path

import numpy as np

from common import CAPTIONS, SIZE
from grounding import covered
from tether.datasets.synthetic.scenes import caption, render, sample_scene
from tether.datasets.synthetic.scenes.source import HELD_OUT_SCENES


def draw(seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """One scene's pixels, uint8 `(128, 128, 3)`, where its things are (`covered`), and captions."""
    spec, rng = sample_scene(seed), np.random.default_rng([1, seed])
    scene = render(spec, SIZE)
    return scene.image, covered(scene.instance), [caption(spec, rng) for _ in range(CAPTIONS)]


def pack(path: Path, seeds: range) -> None:
    """Renders the scenes of `seeds` and writes pixels, places and captions."""
    with Pool() as pool:
        pixels, places, captions = zip(*pool.imap(draw, seeds, chunksize=20), strict=True)
    np.savez_compressed(path, pixels=np.stack(pixels), places=np.stack(places), captions=np.array(json.dumps(captions)))
    print(f"{path}: {len(pixels)} scenes", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--data", type=Path, default=Path("data"))
    arguments = parser.parse_args()
    pack(arguments.data / "scenes-held-out.npz", HELD_OUT_SCENES)
    pack(arguments.data / "scenes.npz", range(arguments.count))


if __name__ == "__main__":
    main()
