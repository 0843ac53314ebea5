"""Segmentation: one color a class, so resizing must not blend colors.

"regions" needs no weights and knows no classes: areas of one color, each drawn in its own mean color. Colors are
grouped by k-means in CIELAB, begun with the farthest points so that nothing is random; each pixel takes the group that
most of its neighbors have, and small areas join what surrounds them.

"ade20k" draws the classes of a network in the colors of ADE20K (`tether.kinds.ade20k`), as published controls expect
them; any semantic segmentation model of transformers that was trained on ADE20K: `tether detectors use seg NAME`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.kinds.kind import Annotator, Kind
from tether.kinds.measures import CLASSES
from tether.kinds.option import Option
from tether.kinds.weights import needs

if TYPE_CHECKING:
    import numpy as np

__all__ = ["KIND", "detect", "random_regions", "regions"]

OPTIONS = {
    "colors": Option(8, 2, 32, "at most so many colors"),
    "smallest": Option(0.3, 0, 20, "smallest area, in percent of the image"),
}
SAMPLE, ROUNDS = 64, 8
"""Colors are grouped on an image of this side, in so many rounds of k-means."""
NEAR = 14.0
"""Groups closer than this in CIELAB are one."""


def regions(pixels: np.ndarray, colors: int = 8, smallest: float = 0.3) -> np.ndarray:
    """Groups of color of uint8 `(H, W, 3)` RGB: uint8 `(H, W)`, from 0."""
    import cv2
    import numpy as np

    height, width = pixels.shape[:2]
    image = cv2.GaussianBlur(np.ascontiguousarray(pixels), (0, 0), max(0.5, min(height, width) / 340))
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    sample = cv2.resize(lab, (min(SAMPLE, width), min(SAMPLE, height)), interpolation=cv2.INTER_AREA)
    centers = _centers(sample.reshape(-1, 3), colors)
    distances = [((lab - center) ** 2).sum(axis=2) for center in centers]
    labels = np.argmin(distances, axis=0).astype(np.uint8)
    return _without_specks(_vote(labels, len(centers)), smallest / 100 * height * width)


def detect(pixels: np.ndarray, colors: float, smallest: float) -> np.ndarray:
    """Areas of one color as a condition map, uint8 `(H, W, 3)`."""
    import numpy as np

    labels = regions(pixels, round(colors), smallest)
    painted = np.zeros_like(pixels)
    for label in np.unique(labels):
        where = labels == label
        painted[where] = np.round(pixels[where].mean(axis=0)).astype(np.uint8)
    return painted


def random_regions(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Areas of a random number of colors, uint8 `(H, W, 3)`: a control trained on them works with any."""
    return detect(pixels, int(rng.integers(4, 14)), rng.uniform(0.1, 1))


def detect_ade20k(pixels: np.ndarray) -> np.ndarray:
    """Classes in the colors of ADE20K, uint8 `(H, W, 3)`.

    Raises:
        TetherError: when there is no model, or its classes are not those of ADE20K.
    """
    from tether.detectors.semantic import class_map
    from tether.kinds.ade20k import COLORS

    return COLORS[class_map(pixels, len(COLORS))]


def _centers(points: np.ndarray, most: int) -> np.ndarray:
    """K-means of `(N, 3)`, begun with the farthest points: at most `most` centers."""
    import numpy as np

    centers = [np.median(points, axis=0)]
    while len(centers) < most:
        away = np.min([((points - center) ** 2).sum(axis=1) for center in centers], axis=0)
        if away.max() < NEAR**2:
            break
        centers.append(points[away.argmax()])
    found = np.array(centers)
    for _ in range(ROUNDS):
        nearest = ((points[:, None] - found) ** 2).sum(axis=2).argmin(axis=1)
        used = np.unique(nearest)
        found = np.array([points[nearest == k].mean(axis=0) for k in used])
    apart: list[np.ndarray] = []
    for center in found:
        if all(((center - other) ** 2).sum() >= NEAR**2 for other in apart):
            apart.append(center)
    return np.array(apart)


def _vote(labels: np.ndarray, count: int) -> np.ndarray:
    """Each pixel gets the label of most of its neighbors."""
    import cv2
    import numpy as np

    side = 2 * max(1, round(min(labels.shape) / 150)) + 1
    votes = [cv2.blur((labels == k).astype(np.float32), (side, side)) for k in range(count)]
    return np.argmax(votes, axis=0).astype(np.uint8)


def _without_specks(labels: np.ndarray, least: float) -> np.ndarray:
    """Areas of fewer than `least` pixels get the label of the nearest larger one."""
    import cv2
    import numpy as np

    small = np.zeros(labels.shape, bool)
    for label in np.unique(labels):
        _, parts, about, _ = cv2.connectedComponentsWithStats((labels == label).astype(np.uint8), connectivity=4)
        tiny = about[:, cv2.CC_STAT_AREA] < least
        tiny[0] = False  # all other labels
        small |= tiny[np.asarray(parts, np.int32)]
    if not small.any() or small.all():
        return labels
    _, found = cv2.distanceTransformWithLabels(small.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    nearest = np.asarray(found, np.int32)
    of_place = np.zeros(nearest.max() + 1, np.uint8)
    of_place[nearest[~small]] = labels[~small]
    return of_place[nearest]


KIND = Kind(
    "seg",
    "segmentation, one color a class",
    annotators={"regions": Annotator(detect, OPTIONS), "ade20k": Annotator(detect_ade20k, ready=needs("seg"))},
    resize="nearest",
    vary=random_regions,
    measures=CLASSES,
    names=r"seg(mentation)?|ade20k",
    aliases=("segmentation",),
)
