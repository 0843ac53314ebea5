"""The contact sheet of an evaluation: its best, median and worst pictures, each with condition and what was found."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image

from tether.evaluation.found import found_map
from tether.evaluation.run import STRENGTH_0, Evaluation
from tether.images import contact_sheet, open_image

__all__ = ["draw_sheet", "ranked"]

SHOWN = 3
"""Cases of each of best, median and worst."""


def ranked(evaluation: Evaluation, arm: str, name: str) -> list[int]:
    """The numbers of the cases, the best first, by the score of each one's first picture."""
    scores = np.array([evaluation.of_picture(arm, name, k) for k in range(len(evaluation.cases))])
    order = np.argsort(-scores if evaluation.measures[name].higher else scores, kind="stable")
    return order.tolist()


def draw_sheet(evaluation: Evaluation, arm: str, kinds: Sequence[str]) -> Image.Image:
    """Rows of best, median and worst cases of an arm, by the first measure of the first kind.

    Columns: source, then for each kind condition and what is found in the picture, then the picture, then strength 0.
    """
    name = next((one for one in evaluation.measures if one.startswith(f"{kinds[0]}/")), "sharpness")
    order = ranked(evaluation, arm, name)
    rows, labels = [], []
    for word, k in _chosen(order):
        case, picture = evaluation.cases[k], open_image(evaluation.pictures[arm][k][0])
        measure = evaluation.measures[name]
        score = f"{measure.title} {evaluation.of_picture(arm, name, k):.{measure.digits}f}"
        row, label = [case.image], [f"{word}: {score}"]
        for kind in kinds:
            row += [case.maps[kind], found_map(kind, picture, case) or Image.new("RGB", picture.size, "grey")]
            label += [kind, "found in the picture"]
        row.append(picture)
        label.append(textwrap.shorten(case.prompt, 60, placeholder=" ..."))
        if STRENGTH_0 in evaluation.pictures and arm != STRENGTH_0:
            row.append(open_image(evaluation.pictures[STRENGTH_0][k][0]))
            label.append(STRENGTH_0)
        rows.append(row)
        labels.append(label)
    return contact_sheet(rows, labels=labels)


def _chosen(order: Sequence[int]) -> list[tuple[str, int]]:
    """The best, median and worst of cases in order, each once."""
    middle = max(0, len(order) // 2 - SHOWN // 2)
    groups = (("best", order[:SHOWN]), ("median", order[middle : middle + SHOWN]), ("worst", order[-SHOWN:]))
    seen: set[int] = set()
    found = []
    for word, many in groups:
        for one in many:
            if one not in seen:
                seen.add(one)
                found.append((word, one))
    return found
