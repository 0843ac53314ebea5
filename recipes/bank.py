"""Collects what images are composed of: data/bank.npz, every drawing at 128 px, many in other colors, and backdrops.

    python recipes/bank.py               (after sources.py)

Drawings of held-out names are left out, and so is a recolored one that would show what a held-out name says ("green
book"). Names have a rank by how often they are trained on: those of vocabulary.txt and everyday.txt ("core"), those
that synonyms.json has words for ("more"), and the rest, of which only two styles are taken.
"""

from __future__ import annotations

import argparse
import json
from multiprocessing import Pool
from pathlib import Path

import cv2
import numpy as np

from backdrops import backdrops
from colors import LEAST_SHARE, main_color, recolored
from common import DATA, EVERYDAY, SIZE, VOCABULARY, load_drawings
from sources import STYLES
from tether.datasets.synthetic.emoji import Drawing, is_held_out
from tether.datasets.synthetic.scenes import COLORS
from words import HELD_OUT_NAMES, SYNONYMS, plain_words

RANKS = ("core", "more", "rest")
RECOLORED = {"core": 4, "more": 1, "rest": 0}
"""Other colors of each drawing that has one main color."""


def rank(name: str) -> str:
    """One of `RANKS`."""
    return "core" if name in VOCABULARY | EVERYDAY else "more" if name in SYNONYMS else "rest"


def is_used(drawing: Drawing) -> bool:
    """Whether a drawing is trained on."""
    wanted = drawing.style in ("3d emoji", "flat emoji") or rank(drawing.name) != "rest"
    return wanted and not is_held_out(drawing.name)


def shrink(rgba: np.ndarray) -> np.ndarray:
    """A square drawing at 128 px, uint8 `(128, 128, 4)`, its colors multiplied by its alpha.

    Interpolating straight alpha would pull the color of transparent pixels into the edges.
    """
    alpha = rgba[..., 3:].astype(np.float32) / 255
    whole = np.concatenate([rgba[..., :3] * alpha, rgba[..., 3:]], axis=2)
    return np.round(cv2.resize(whole, (SIZE, SIZE), interpolation=cv2.INTER_AREA)).astype(np.uint8)


def box(rgba: np.ndarray) -> list[float]:
    """Where a drawing's opaque pixels are: left, top, right and bottom in shares of the side."""
    rows, columns = (np.flatnonzero((rgba[..., 3] > 127).any(axis=axis)) for axis in (1, 0))
    edges = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return [round(float(edge) / len(rgba), 3) for edge in edges]


def shows_held_out(color: str, words: list[str]) -> bool:
    """Whether something of these names in a color is what a held-out name says."""
    held_out = [set(name.split()) for name in HELD_OUT_NAMES]
    return any({color, *word.split()} <= name for word in words for name in held_out)


def variants(drawing: Drawing) -> list[tuple[np.ndarray, dict]]:
    """A drawing and some of it in other colors, each with what captions have to know."""
    main, level = main_color(drawing.rgba), rank(drawing.name)
    clear = main.share >= LEAST_SHARE
    entry = {"name": drawing.name, "synonyms": drawing.synonyms, "style": drawing.style, "rank": level}
    entry["box"] = box(drawing.rgba)
    found = [(shrink(drawing.rgba), entry | {"color": main.name if clear else None, "recolored": False})]
    words = plain_words(drawing.name)
    if clear and words and RECOLORED[level]:
        rng = np.random.default_rng([3, *f"{drawing.style} {drawing.name}".encode()])
        others = [c for c in COLORS if c not in (main.name, "grey") and not shows_held_out(c, words)]
        for color in rng.choice(others, RECOLORED[level], replace=False):
            changed = recolored(drawing.rgba, main, str(color))
            found.append((shrink(changed), entry | {"color": str(color), "recolored": True}))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    drawings = [
        drawing
        for style in STYLES
        for drawing in load_drawings(arguments.data / f"emoji-{style}.npz", tags=False)
        if is_used(drawing)
    ]
    with Pool() as pool:
        rows = [row for found in pool.map(variants, drawings, chunksize=8) for row in found]
    pixels, horizons, places = backdrops()
    np.savez(
        arguments.data / "bank.npz",
        rgba=np.stack([rgba for rgba, _ in rows]),
        entries=np.array(json.dumps([entry for _, entry in rows])),
        backdrops=pixels,
        horizons=horizons,
        places=np.array(json.dumps(places)),
    )
    print(f"{len(drawings)} drawings, {len(rows)} with those in other colors, {len(pixels)} backdrops")


if __name__ == "__main__":
    main()
