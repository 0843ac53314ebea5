"""The set `circles`."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from tether.datasets.synthetic.circles import COLORS, draw_circle


@pytest.mark.parametrize("number", range(8))
def test_a_circle_has_the_colours_of_its_caption_and_the_outline_of_its_disc(number: int) -> None:
    image, outline, caption = draw_circle(128, np.random.default_rng(number))
    disc, _, ground = caption.removesuffix(" background").partition(" circle with ")
    inside = (image == COLORS[disc]).all(axis=2)
    outside = (image == COLORS[ground]).all(axis=2)
    assert inside.sum() + outside.sum() > 0.95 * inside.size  # the rest is the smooth edge
    line = outline[..., 0] > 0
    # A disc may touch the frame: what lies beyond the frame counts as background.
    beyond = cv2.copyMakeBorder(outside.astype(np.uint8), 4, 4, 4, 4, cv2.BORDER_CONSTANT, value=1)
    ground_near = cv2.dilate(beyond, np.ones((5, 5)))[4:-4, 4:-4]
    near = cv2.dilate(inside.astype(np.uint8), np.ones((5, 5))) & ground_near
    assert line.any()
    assert bool(near[line].all())
    # The outline is closed: a fill from a corner does not reach the disc's middle.
    filled = outline[..., 0].copy()
    middle = np.argwhere(inside).mean(axis=0).round().astype(int)
    corner = next(c for c in itertools.product((0, 127), (0, 127)) if outside[c])
    cv2.floodFill(filled, None, corner[::-1], 128)
    assert filled[tuple(middle)] == 0
