"""Images to tensors and back."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch
from PIL import Image

from tether.images import from_pixels, to_condition, to_pixels


def test_pixels_round_trip_exactly() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    image = Image.fromarray(levels)
    assert np.array_equal(np.asarray(from_pixels(to_pixels(image))[0]), levels)
    assert to_pixels(image).min() == -1
    assert to_pixels(image).max() == 1
    assert to_condition(image).min() == 0
    assert torch.equal(to_condition(image) * 2 - 1, to_pixels(image))


def test_reading_and_fitting_do_not_wait_for_pytorch() -> None:
    code = "import sys, tether.images as images; images.fit, images.save_png; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
