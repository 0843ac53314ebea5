"""Packs the 3D emoji into the package: src/tether/datasets/synthetic/data/emoji3d.npz, the set `emoji3d`.

    python recipes/sources.py           (fetches data/raw)
    python recipes/pack_emoji3d.py

Each drawing is a lossy WebP of 160 pixels a side with exact alpha; colors under transparent pixels are not kept.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from sources import FLUENT_SIZE, entries, read_fluent
from tether.datasets.synthetic.emoji import is_held_out
from tether.datasets.synthetic.emoji3d import EMOJI3D

QUALITY = 93


def encode(rgba: np.ndarray) -> bytes:
    """uint8 `(160, 160, 4)` -> WebP."""
    file = io.BytesIO()
    Image.fromarray(rgba).save(file, "WEBP", quality=QUALITY, alpha_quality=100, method=6)
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=EMOJI3D)
    arguments = parser.parse_args()
    raw = arguments.data / "raw"
    drawn = [(entry, rgba) for entry in entries(raw) if (rgba := read_fluent(raw, entry["code"])) is not None]
    files = [encode(rgba) for _, rgba in drawn]
    words = [entry for entry, _ in drawn]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        arguments.out,
        webp=np.frombuffer(b"".join(files), np.uint8),
        ends=np.cumsum([len(file) for file in files]),
        words=np.array(json.dumps(words)),
        style=np.array("3d emoji"),
    )
    held_out = sum(is_held_out(entry["name"]) for entry in words)
    size = arguments.out.stat().st_size / 1e6
    print(f"{arguments.out}: {len(words)} drawings of {FLUENT_SIZE} px, {held_out} of them held out, {size:.1f} MB")


if __name__ == "__main__":
    main()
