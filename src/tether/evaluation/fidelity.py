"""Condition fidelity: one number from 0 to 1, by kind of condition, for how well an image follows its condition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.kinds import Metric, find_kind

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["fidelity", "metric_of"]


def metric_of(kind: str) -> Metric | None:
    """The metric of a kind of condition, (image, condition) -> [0, 1]; None when it has none."""
    return find_kind(kind).metric


def fidelity(kind: str, image: Image.Image, condition: Image.Image) -> float | None:
    """How well an image follows its condition.

    Args:
        kind: the kind of condition.
        image: the generated image.
        condition: the condition; one of another size is resized to the image's.

    Returns:
        From 0, ignored, to 1, followed; None when the kind has no metric.
    """
    metric = metric_of(kind)
    return None if metric is None else metric(image, condition)
