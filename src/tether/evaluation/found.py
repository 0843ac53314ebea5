"""The map that is found in a drawn picture, to be compared with the condition."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tether.evaluation.cases import Case, can_be_made
from tether.evaluation.judge import JUDGED, LAYOUT, load_judge
from tether.images import to_rgb
from tether.kinds import find_kind, make_map
from tether.kinds.ade20k import is_ade20k
from tether.kinds.measures import Measure, Numbers

__all__ = ["finder", "found_map", "measures_of", "numbers_of"]


def finder(kind: str, case: Case) -> str | None:
    """What finds maps of a kind in the pictures of a case: "judge" for exact maps of scenes, "ade20k" for maps of
    ADE20K's classes that a set brings, "annotator" for those of the kind's first annotator, "image" for conditions that
    are images; None when nothing does. Areas in their mean colors ("regions") cannot be compared with classes."""
    known = find_kind(kind)
    if kind in case.exact and case.layout == LAYOUT and kind in JUDGED:
        return "judge"
    if kind == "seg" and kind not in case.annotated:
        return "ade20k" if is_ade20k(_pixels(case.maps[kind])) and known.annotator("ade20k").is_ready else None
    if known.annotators:
        return "annotator" if can_be_made(kind) else None
    return "image" if known.is_image else None


def found_map(kind: str, image: Image.Image, case: Case) -> Image.Image | None:
    """The map of a kind in a picture of a case, RGB; None when nothing finds it."""
    how = finder(kind, case)
    if how == "judge":
        return load_judge().find(kind, image)
    if how in ("annotator", "ade20k"):
        return make_map(kind, image, None if how == "annotator" else how, {})
    return image if how == "image" else None


def measures_of(kind: str) -> tuple[Measure, ...]:
    """The measures of a kind: its own, or its condition fidelity where it has no more."""
    known = find_kind(kind)
    if known.measures or known.metric is None:
        return known.measures
    metric = known.metric

    def compare(image: np.ndarray, condition: np.ndarray) -> Numbers:
        return {"value": metric(Image.fromarray(image), Image.fromarray(condition))}

    return (Measure("fidelity", "fidelity", compare, against="condition"),)


def numbers_of(kind: str, image: Image.Image, case: Case) -> dict[str, Numbers]:
    """The numbers of a picture by each measure of a kind that can be measured here, by the measure's key."""
    measures = measures_of(kind)
    numbers = {}
    maps = [one for one in measures if one.against == "map"]
    found = found_map(kind, image, case) if maps else None
    if found is not None:
        wanted = _pixels(case.maps[kind])
        numbers = {one.key: one.compare(_pixels(found), wanted) for one in maps}
    for one in measures:
        if one.against == "image":
            numbers[one.key] = one.compare(np.asarray(image), case.pixels)
        elif one.against == "hole":
            assert case.mask is not None, "kinds that need a mask have one"
            hole = np.asarray(case.mask.convert("L")) >= 128
            numbers[one.key] = one.compare(np.asarray(image), case.pixels, hole)
        elif one.against == "condition":
            numbers[one.key] = one.compare(np.asarray(image), _pixels(case.maps[kind]))
    return numbers


def _pixels(image: Image.Image) -> np.ndarray:
    """A map as uint8 `(H, W, 3)`; one of 16 bits with the upper 8."""
    return np.asarray(to_rgb(image, "black"))
