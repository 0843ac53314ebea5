"""Undoes recipes/gpu_bundle.py in its folder: weights in their places, and the drawings as data/emoji-*.npz.

python recipes/gpu_unpack.py
"""

from __future__ import annotations

import json
import lzma
from multiprocessing import Pool
from pathlib import Path

import numpy as np

from common import DATA
from gpu_weights import restore
from sources import draw_svg, pack
from tether.datasets.synthetic.emoji3d import load_emoji3d


def main() -> None:
    for packed in sorted(Path("start").rglob("*.safetensors")):
        restore(packed, Path("src/tether/weights") / packed.relative_to("start"))
    with np.load(DATA / "emoji-flat.npz") as file:
        named = {entry["name"]: entry["names"] for entry in json.loads(str(file["words"]))}
    drawings = load_emoji3d()  # of the words that it has, some are no names: "food"
    words = [{"name": d.name, "synonyms": d.synonyms, "names": named.get(d.name, [])} for d in drawings]
    pack(DATA / "emoji-3d.npz", "3d emoji", words, [drawing.rgba for drawing in drawings], compressed=False)
    with lzma.open(DATA / "vectors.json.xz", "rt") as file:
        styles = json.load(file)
    with Pool() as pool:
        for style, found in styles.items():
            drawn = pool.map(draw_svg, [svg for _, svg in found], chunksize=8)
            pack(DATA / f"emoji-{style}.npz", f"{style} emoji", [entry for entry, _ in found], drawn, compressed=False)


if __name__ == "__main__":
    main()
