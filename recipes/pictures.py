"""Makes the random training images once: data/pictures.npz, of emoji placed on backgrounds and of the scenes.

    python recipes/pictures.py                                             (after sources.py and render_scenes.py)
    python recipes/pictures.py --centred 0 --out data/pictures-wide.npz    (for a control)

Held-out names and scenes are left out.
"""

from __future__ import annotations

import argparse
import json
from multiprocessing import Pool
from pathlib import Path

import numpy as np

from common import CAPTIONS, DATA, SIZE, training_drawings
from tether.datasets.synthetic.emoji import Drawing, caption, compose

VARIANTS = {"3d emoji": 40, "flat emoji": 28, "other emoji": 16}
"""Random placements of each drawing."""


def placements(drawing: Drawing, count: int, centred: float) -> tuple[list[np.ndarray], list[list[str]]]:
    """`count` random images of a drawing, a share of them centred, and captions of each."""
    rng = np.random.default_rng([7, *f"{drawing.style} {drawing.name}".encode()])
    pixels, captions = [], []
    for k in range(count):
        picture, background = compose(drawing, SIZE, rng, centered=k < centred * count)
        pixels.append(picture)
        captions.append([caption(drawing, background, rng) for _ in range(CAPTIONS)])
    return pixels, captions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=DATA / "pictures.npz")
    parser.add_argument(
        "--centred",
        type=float,
        default=0.75,
        help="share of the placements in the middle; when the words leave open what is where, the first steps of "
        "sampling draw the mean of all that it could be, and with placements all over that was a blob for every name; "
        "a control has lines to go by: 0 for it",
    )
    arguments = parser.parse_args()

    drawings = training_drawings(arguments.data)
    with np.load(arguments.data / "scenes.npz") as pack:
        scenes, captions = pack["pixels"], json.loads(str(pack["captions"]))
    jobs = [(drawing, VARIANTS[group], arguments.centred) for group in drawings for drawing in drawings[group]]
    with Pool() as pool:
        placed = pool.starmap(placements, jobs, chunksize=16)
    counts = {group: len(drawings[group]) * VARIANTS[group] for group in drawings} | {"scenes": len(scenes)}
    captions = [words for _, rows in placed for words in rows] + captions
    np.savez(
        arguments.out,
        pixels=np.concatenate([*(np.stack(pixels) for pixels, _ in placed), scenes]),
        captions=np.array(json.dumps(captions)),
        counts=np.array(json.dumps(counts)),
    )
    print(f"{arguments.out}: {len(captions)} pictures, {counts}")


if __name__ == "__main__":
    main()
