"""Validation: the same images again and again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from tether.base import Base
from tether.control import ControlNet
from tether.training.validation import ImageValidator, ValidationSample

SIZE = (64, 64)


@pytest.fixture
def control(tiny_base: Base) -> ControlNet:
    torch.manual_seed(0)
    return ControlNet.from_unet(tiny_base.unet).eval()


def samples(count: int = 2, originals: bool = True) -> list[ValidationSample]:
    image = Image.new("RGB", SIZE, "red") if originals else None
    return [ValidationSample(f"number {k}", Image.new("RGB", SIZE, (k, k, k)), image) for k in range(count)]


def brightness(image: Image.Image, condition: Image.Image) -> float:
    """A metric whose value says which image it has seen."""
    return sum(image.resize((1, 1)).getpixel((0, 0))) / 765  # type: ignore[arg-type]


def test_a_validation_is_repeated_exactly_and_differs_without_prompt(
    tiny_base: Base, control: ControlNet, tmp_path: Path
) -> None:
    validator = ImageValidator(tiny_base, samples(), brightness, tmp_path, steps=1)
    first, second = validator(0, control), validator(0, control)
    assert first == second
    assert first.fidelity is not None
    assert first.without_prompt is not None
    assert 0 < first.fidelity < 1
    assert first.fidelity != first.without_prompt


def test_the_sheets_have_conditions_originals_and_a_row_for_each_step_so_far(
    tiny_base: Base, control: ControlNet, tmp_path: Path
) -> None:
    validator = ImageValidator(tiny_base, samples(), brightness, tmp_path, steps=1)
    for step in (0, 10, 20, 10):  # the last one after a kill: the row of step 20 will come again
        validator(step, control)
    for name in ("with-prompt", "without-prompt"):
        with Image.open(tmp_path / f"{name}.png") as sheet:
            assert sheet.height == 4 * (64 + 2)
        assert len(list((tmp_path / name).glob("*.png"))) == 3


def test_without_a_metric_images_are_drawn_and_fidelity_is_none(
    tiny_base: Base, control: ControlNet, tmp_path: Path
) -> None:
    validation = ImageValidator(tiny_base, samples(1, originals=False), None, tmp_path, steps=1)(5, control)
    assert (validation.step, validation.fidelity, validation.without_prompt) == (5, None, None)
    with Image.open(tmp_path / "with-prompt.png") as sheet:
        assert sheet.height == 2 * (64 + 2)
