"""Draws docs/images/detectors.png: pictures of our own through most annotators that need no weights of the user.

python recipes/detector_sheet.py            (with hed, if it is installed)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tether.datasets.synthetic.scenes.source import Scenes
from tether.errors import TetherError
from tether.images import contact_sheet, fit, open_image, save_png
from tether.kinds import annotatable, make_map

ROOT = Path(__file__).parents[1]
SIDE, CELL = 512, 200
COLUMNS = (
    ("canny", None, {}),
    ("softedge", "gradient", {}),
    ("softedge", "hed", {}),
    ("lineart", "classical", {}),
    ("scribble", None, {}),
    ("lines", "lsd", {}),
    ("lines", "mlsd", {}),
    ("seg", "regions", {}),
    ("mask", None, {}),
    ("pose", None, {}),
    ("recolor", None, {}),
    ("tile", None, {"factor": 16}),
    ("blur", None, {}),
    ("shuffle", None, {}),
)


def main() -> None:
    figure = Scenes(SIDE, 100).sample(18).image
    images = [figure, open_image(ROOT / "src/tether/examples/house.webp", background="white"), chalk()]
    wanted = []
    for name, annotator, options in COLUMNS:
        try:
            annotatable(name, annotator)
            wanted.append((name, annotator, options))
        except TetherError as error:
            print(f"{name} {annotator}: left out ({error})")
    rows, labels = [], []
    for image in images:
        photo = fit(image, SIDE, SIDE)  # type: ignore[arg-type]
        cells = [photo] + [make_map(name, photo, annotator, options) for name, annotator, options in wanted]
        names = ["image"] + [f"{name} {annotator or ''}".strip() for name, annotator, _ in wanted]
        half = (len(cells) + 1) // 2
        small = [cell.resize((CELL, CELL), Image.Resampling.BOX) for cell in cells]
        rows += [small[:half], small[half:]]
        labels += [names[:half], names[half:]]
    save_png(contact_sheet(rows, labels).quantize(192), ROOT / "docs/images/detectors.png")


def chalk() -> Image.Image:
    """A fish, drawn in chalk by a shaky hand."""
    rng = np.random.default_rng(3)
    image = Image.new("RGB", (SIDE, SIDE), (38, 52, 46))
    draw = ImageDraw.Draw(image)
    turn = np.linspace(0.35, 2 * np.pi - 0.35, 60)
    body = np.stack([230 + 150 * np.cos(turn), 256 + 90 * np.sin(turn)], axis=1)
    tail = np.array([body[0], (460, 170), (440, 256), (460, 340), body[-1]])
    for stroke in (body, tail):
        shaky = stroke + rng.normal(0, 2, stroke.shape)
        draw.line([tuple(point) for point in shaky], fill=(232, 228, 214), width=7, joint="curve")
    draw.ellipse((140, 220, 156, 236), fill=(232, 228, 214))
    return image


if __name__ == "__main__":
    main()
