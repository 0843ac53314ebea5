"""Condition fidelity by kind."""

from __future__ import annotations

import pytest
from PIL import Image, ImageDraw

from tether.evaluation import fidelity, metric_of
from tether.kinds import annotate


@pytest.mark.parametrize("kind", ["canny", "scribble"])
def test_an_image_follows_its_own_condition_and_a_blank_one_does_not(kind: str) -> None:
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).rectangle((16, 16, 47, 47), fill="black")
    condition = annotate(kind, image)
    assert fidelity(kind, image, condition) == 1.0
    assert fidelity(kind, Image.new("RGB", (64, 64)), condition) == 0.0


@pytest.mark.parametrize("kind", ["depth", "no such kind", "my-canny"])
def test_a_kind_without_a_metric_has_none(kind: str) -> None:
    image = Image.new("RGB", (8, 8))
    assert metric_of(kind) is None
    assert fidelity(kind, image, image) is None
