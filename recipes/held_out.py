"""Writes recipes/held_out.json: every name and every scene seed that training must not see.

    python recipes/held_out.py

Names: 5% of all kept emoji names, chosen by their SHA-256 (`tether.datasets.synthetic.emoji.is_held_out`).
Scenes: the seeds from 1,000,000 to 1,001,499; training scenes have the seeds from 0 on.
"""

from __future__ import annotations

import json
from pathlib import Path

from common import DATA, load_drawings
from tether.datasets.synthetic.emoji import is_held_out
from tether.datasets.synthetic.scenes.source import HELD_OUT_SCENES


def main() -> None:
    names = {
        drawing.name
        for style in ("3d", "flat")
        for drawing in load_drawings(DATA / f"emoji-{style}.npz")
        if is_held_out(drawing.name)
    }
    listed = {"names": sorted(names), "scene_seeds": [HELD_OUT_SCENES.start, HELD_OUT_SCENES.stop - 1]}
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(listed, indent=1) + "\n")
    print(f"{path}: {len(names)} names, {len(HELD_OUT_SCENES)} scenes")


if __name__ == "__main__":
    main()
