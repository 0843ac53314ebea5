"""How well a drawn picture follows its condition: the measures of each kind.

A measure compares two maps, that which is found in the drawn picture and that which was wanted, or, where the condition
is an image itself, the picture and the image that the condition was made from. It gives numbers of a pair, and pools
the numbers of many pairs into a score:

| of                       | measures                                                              |
|--------------------------|-----------------------------------------------------------------------|
| `LINES`                  | F1 of edge pixels with 2 px tolerance, and pixel-exact                |
| `STROKES`                | F1 of the middle lines of strokes, 2 px                               |
| `SOFT_LINES`             | MS-SSIM                                                               |
| `CLASSES`                | mean intersection over union                                          |
| `OBJECT`                 | the same of a mask and the rest                                       |
| `DEPTH`                  | root mean square error in levels of 255; scale-invariant error        |
| `NORMALS`                | mean angle in degrees                                                 |
| `POSE`                   | PCK@0.1                                                               |
| `DETAIL`                 | gradient magnitude similarity deviation; color difference             |
| `HOLE`                   | the same in the pixels that are inpainted                             |
| `TONES`                  | color difference; MS-SSIM                                             |

The table imports neither NumPy nor OpenCV: a measure imports what it needs when it is first used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

from tether.kinds.measures.measure import Measure, Numbers, Table, mean

__all__ = [
    "CLASSES",
    "DEPTH",
    "DETAIL",
    "HOLE",
    "LINES",
    "NORMALS",
    "OBJECT",
    "POSE",
    "SOFT_LINES",
    "STROKES",
    "TONES",
    "Measure",
    "Numbers",
    "Table",
    "mean",
]


def _later(module: str, name: str) -> Callable[..., Any]:
    """A function of a module of this package, which is imported when the function is called."""

    def call(*arguments: Any) -> Any:
        return getattr(import_module(f"{__name__}.{module}"), name)(*arguments)

    return call


LINES = (
    Measure("f1_2px", "edge F1, 2 px", _later("lines", "tolerant_f1")),
    Measure("f1_exact", "edge F1, exact", _later("lines", "exact_counts"), pool=_later("lines", "exact_f1")),
)
STROKES = (Measure("f1_2px", "stroke F1, 2 px", _later("lines", "stroke_f1")),)
SOFT_LINES = (Measure("ms_ssim", "MS-SSIM", _later("similarity", "map_similarity")),)
CLASSES = (Measure("miou", "mIoU", _later("regions", "overlaps"), pool=_later("regions", "mean_iou")),)
OBJECT = (Measure("miou", "mIoU", _later("regions", "object_overlaps"), pool=_later("regions", "mean_iou")),)
DEPTH = (
    Measure("rmse", "depth RMSE", _later("surfaces", "depth_error"), higher=False, unit="of 255", digits=1),
    Measure("silog", "depth, scale-invariant", _later("surfaces", "scale_invariant_error"), higher=False),
)
NORMALS = (
    Measure("angle", "normal angle", _later("surfaces", "normal_angle"), higher=False, unit="degrees", digits=1),
)
POSE = (Measure("pck", "PCK@0.1", _later("joints", "correct_joints"), pool=_later("joints", "share_of_correct")),)
DETAIL = (
    Measure("gmsd", "GMSD", _later("similarity", "gradient_deviation"), higher=False, against="image"),
    Measure(
        "delta_e",
        "color difference",
        _later("similarity", "color_difference"),
        higher=False,
        unit="ΔE",
        digits=1,
        against="image",
    ),
)
HOLE = tuple(replace(one, title=f"{one.title}, in the hole", against="hole") for one in DETAIL)
TONES = (
    Measure("delta_e", "color difference", _later("similarity", "color_difference"), higher=False, unit="ΔE", digits=1),
    *SOFT_LINES,
)
