"""Condition obedience: one number from 0 to 1, by kind of condition, for how well a picture does what it was told."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from tether.evaluation.edges import canny_obedience, scribble_obedience

__all__ = ["OBEDIENCE", "Obedience", "obedience_metric"]

Obedience = Callable[[Image.Image, Image.Image], float]
"""(picture, condition) -> from 0, ignored, to 1, obeyed."""

OBEDIENCE: dict[str, Obedience] = {"canny": canny_obedience, "scribble": scribble_obedience}
"""The metric of each kind of condition that has one."""


def obedience_metric(kind: str) -> Obedience | None:
    """The metric of a kind of condition; None where there is none."""
    return OBEDIENCE.get(kind)
