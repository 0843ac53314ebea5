"""The sheet of the union's model card: the first held-out emoji and scene of each kind, drawn by `tether evaluate`.

    for kind in softedge scribble ...; do tether evaluate $kind --count 24 -o out/union --json out/$kind.json; done
    python recipes/kinds_sheet.py out out/union src/tether/weights/control-union/kinds.png

A row a kind, twice: source, condition, with control at the default, at strength 0.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image

from common import SIZE
from tether.evaluation.cases import held_out_cases, open_held_out
from tether.evaluation.run import STRENGTH_0
from tether.images import contact_sheet, open_image

KINDS = ("softedge", "scribble", "lineart", "mlsd", "seg", "depth", "normal", "openpose", "tile", "inpaint")


def row(kind: str, numbers: Path, pictures: Path) -> list[Image.Image]:
    """Two cases of a kind: the first of each set, or of the one set the first two."""
    found = json.loads(numbers.read_text())
    sets = [open_held_out(one["set"], SIZE) for one in found["settings"]["data"]]
    cases = held_out_cases(sets, [kind], (SIZE, SIZE), found["settings"]["count"])
    drawn = {one["key"]: one["pictures"] for one in found["cases"]}
    firsts = [next(case for case in cases if case.key.startswith(one.ref)) for one in sets]
    shown = firsts if len(firsts) == 2 else cases[:2]
    images = []
    for case in shown:
        files = [pictures / arm.replace(" ", "-") / drawn[case.key][arm][0] for arm in (kind, STRENGTH_0)]
        images += [case.image, case.maps[kind], *map(open_image, files)]
    return images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", type=Path, help="folder of KIND.json")
    parser.add_argument("pictures", type=Path, help="--out of tether evaluate")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    rows = [row(kind, arguments.numbers / f"{kind}.json", arguments.pictures) for kind in KINDS]
    labels = [[kind, *[""] * (len(images) - 1)] for kind, images in zip(KINDS, rows, strict=True)]
    contact_sheet(rows, labels=labels).quantize(256).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
