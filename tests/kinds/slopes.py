"""A kind of condition as another package adds one: the sign of the slope of brightness along x, in one file."""

import numpy as np
from PIL import Image

from tether.kinds import Annotator, Kind, Option, annotate, fit_map


def detect(pixels: np.ndarray, threshold: float) -> np.ndarray:
    """Red where `(H, W, 3)` becomes brighter to the right, green where it becomes brighter to the left."""
    slope = np.gradient(pixels.mean(axis=2), axis=1)
    flat = np.zeros_like(slope)
    return np.stack([slope > threshold, slope < -threshold, flat], axis=2).astype(np.uint8) * np.uint8(255)


def flip(pixels: np.ndarray) -> np.ndarray:
    """In the mirrored image the two signs change places."""
    return pixels[:, ::-1, [1, 0, 2]]


def fidelity(image: Image.Image, condition: Image.Image) -> float:
    """Intersection over union of an image's slopes and those of a condition."""
    found = np.asarray(annotate("slopes", image)) > 0
    wanted = np.asarray(fit_map(condition, "slopes", image.size, "stretch")) > 0
    return float((found & wanted).sum() / max(1, (found | wanted).sum()))


KIND = Kind(
    "slopes",
    "where brightness rises to the right (red) or to the left (green)",
    annotators={"gradient": Annotator(detect, {"threshold": Option(20, 0, 255, "weakest slope that is drawn")})},
    resize="nearest",
    flip=flip,
    metric=fidelity,
    names="slopes?",
)
