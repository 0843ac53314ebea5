"""Makes the images that `tether demo` steers by: held-out emoji, and a doodle drawn here.

python recipes/examples.py              (after recipes/sources.py)
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from common import DATA, load_drawings
from tether.datasets.synthetic.emoji import is_held_out, place

EXAMPLES = Path(__file__).parents[1] / "src/tether/examples"
EMOJI = {"house": "house building", "mouse": "mouse face", "lock": "lock"}


def doodle(size: int = 256) -> np.ndarray:
    """An apple as a hand would draw it: white strokes on black, uint8 `(size, size)`."""
    canvas = np.zeros((size, size), np.uint8)
    turn = np.linspace(0, 2 * np.pi, 120)
    wobble = 1 + 0.012 * np.sin(5 * turn + 1) + 0.008 * np.sin(11 * turn)
    radius = 78 * wobble * (1 - 0.16 * np.exp(-((turn - np.pi / 2) ** 2) / 0.08))
    body = np.stack([128 + 1.06 * radius * np.cos(turn), 148 - radius * np.sin(turn)], axis=1)
    along = np.linspace(0, 1, 30)
    stem = np.stack([128 + 12 * along**2, 84 - 40 * along], axis=1)
    bow = 16 * np.sin(np.pi * along)
    leaf = np.stack([[138 + 52 * along, 66 - 18 * along - bow], [138 + 52 * along, 66 - 18 * along + bow]])
    for stroke in (body, stem, *leaf.transpose(0, 2, 1)):
        cv2.polylines(canvas, [np.round(stroke).astype(np.int32)], False, 255, 2, cv2.LINE_8)
    return canvas


def main() -> None:
    EXAMPLES.mkdir(exist_ok=True)
    drawings = {drawing.name: drawing for drawing in load_drawings(DATA / "emoji-3d.npz")}
    for stem, name in EMOJI.items():
        assert is_held_out(name), name
        picture = place(drawings[name].rgba, 256, (255, 255, 255), 0.9, (0.0, 0.0))
        Image.fromarray(picture).save(EXAMPLES / f"{stem}.webp", quality=90)
    Image.fromarray(doodle()).save(EXAMPLES / "doodle.png", optimize=True)


if __name__ == "__main__":
    main()
