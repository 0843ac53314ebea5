"""Kinds of condition: edges, depth, pose, ... One table, one file a kind (see `tether.kinds.kind`).

    edges = annotate("canny", photo, low=80, high=160)        # at the photo's own size
    prepared = prepare(photo, "canny", (512, 512))            # fitted first, annotated at the size that is drawn

The table imports neither PyTorch nor OpenCV; a kind imports what it needs when it is first used.
"""

from __future__ import annotations

from tether.kinds.annotation import annotatable, annotate, make_map
from tether.kinds.kind import Annotator, Kind, Metric, mirror
from tether.kinds.option import Option
from tether.kinds.preparation import Prepared, fit_map, flip_map, flip_of, prepare
from tether.kinds.table import annotator_names, find_kind, guess_kind, kind_of, kinds, register

__all__ = [
    "Annotator",
    "Kind",
    "Metric",
    "Option",
    "Prepared",
    "annotatable",
    "annotate",
    "annotator_names",
    "find_kind",
    "fit_map",
    "flip_map",
    "flip_of",
    "guess_kind",
    "kind_of",
    "kinds",
    "make_map",
    "mirror",
    "prepare",
    "register",
]
