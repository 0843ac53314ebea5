"""Validation: the same images again and again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tether.base import Base
from tether.control import ControlNet
from tether.sampling import Pipeline
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


def test_a_sheet_of_many_validations_has_the_first_the_last_and_some_between(
    tiny_base: Base, control: ControlNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are drawn by their step: no network is run."""

    def rows(sheet: Image.Image) -> list[int]:
        return [sheet.getpixel((110, top + 32))[0] for top in range(2 * 66, sheet.height, 66)]  # type: ignore[index]

    monkeypatch.setattr("tether.training.validation._ROWS", 4)
    validator = ImageValidator(tiny_base, samples(1), None, tmp_path, steps=1)
    for step in range(10):
        shade = Image.new("RGB", SIZE, (step, 0, 0))
        monkeypatch.setattr(validator, "_draw", lambda *_, shade=shade: [shade])
        validator(step, control)
        with Image.open(tmp_path / "with-prompt.png") as sheet:
            assert len(rows(sheet)) == min(4, step + 1)
            assert (rows(sheet)[0], rows(sheet)[-1]) == (0, step)
    with Image.open(tmp_path / "with-prompt.png") as sheet:
        assert rows(sheet) == [0, 3, 6, 9]
    assert len(list((tmp_path / "with-prompt").glob("*.png"))) == 10


def test_without_a_metric_images_are_drawn_and_fidelity_is_none(
    tiny_base: Base, control: ControlNet, tmp_path: Path
) -> None:
    validation = ImageValidator(tiny_base, samples(1, originals=False), None, tmp_path, steps=1)(5, control)
    assert (validation.step, validation.fidelity, validation.without_prompt) == (5, None, None)
    with Image.open(tmp_path / "with-prompt.png") as sheet:
        assert sheet.height == 2 * (64 + 2)


def test_images_that_are_drawn_together_are_those_of_their_own_prompts_seeds_and_sizes(
    tiny_base: Base, control: ControlNet, tmp_path: Path
) -> None:
    """As they would be drawn alone, but for rounding."""
    with torch.no_grad():
        for zero in (*control.controlnet_down_blocks, control.controlnet_mid_block):
            torch.nn.init.normal_(zero.weight, std=0.3)
    noise = torch.Generator().manual_seed(0)
    sizes = [SIZE, SIZE, (96, 64), SIZE, (96, 64)]
    maps = [torch.randint(256, (height, width, 3), generator=noise, dtype=torch.uint8) for width, height in sizes]
    chosen = [
        ValidationSample(f"number {k}, " + "and more " * 15 * (k == 1), Image.fromarray(pixels.numpy()))
        for k, pixels in enumerate(maps)
    ]
    drawn: list[Image.Image] = []
    validator = ImageValidator(
        tiny_base, chosen, lambda image, _: drawn.append(image) or 0.0, tmp_path, steps=2, seed=5
    )
    validator(0, control)
    assert len(drawn) == 10
    pipe = Pipeline(tiny_base, [control])
    for index, sample in enumerate(chosen):
        for prompt, scale, found in ((sample.prompt, 5.0, drawn[index]), ("", 1.0, drawn[5 + index])):
            (alone,) = pipe(
                prompt, [sample.condition], seed=5 + index, steps=2, guidance_scale=scale, size=sample.condition.size
            )
            assert isinstance(alone, Image.Image)
            assert found.size == sample.condition.size
            assert np.abs(np.asarray(found, np.int16) - np.asarray(alone, np.int16)).max() <= 2


@pytest.mark.parametrize(
    "caption", ["a girl, <lora:style:0.8>", "a cat [sitting|standing]", "a photo [2019:03]", "an (apple:1.3)"]
)
def test_captions_are_read_as_in_training_and_not_as_prompts(
    tiny_base: Base, control: ControlNet, tmp_path: Path, caption: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[torch.Tensor] = []
    draw = Pipeline.draw
    monkeypatch.setattr(
        Pipeline,
        "draw",
        lambda *of, guidance, **how: encoded.append(guidance.conditional.tokens) or draw(*of, guidance=guidance, **how),
    )
    sample = ValidationSample(caption, Image.new("RGB", SIZE, "gray"))
    ImageValidator(tiny_base, [sample], None, tmp_path, steps=1)(0, control)
    assert torch.equal(encoded[0], tiny_base.encode_prompts([caption], syntax="plain").tokens)


def test_a_control_that_has_learned_nothing_is_not_run_and_the_images_are_the_same(
    tiny_base: Base, control: ControlNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    plain = ControlNet.forward
    monkeypatch.setattr(ControlNet, "forward", lambda *of, **how: runs.append(0) or plain(*of, **how))
    drawn: list[bytes] = []
    chosen = [ValidationSample("words", Image.new("RGB", SIZE, "gray"))]
    validator = ImageValidator(
        tiny_base, chosen, lambda image, _: drawn.append(image.tobytes()) or 0.0, tmp_path, steps=2
    )
    validator(0, control)
    assert runs == []
    monkeypatch.setattr("tether.training.validation._is_silent", lambda _: False)
    validator(0, control)
    assert runs
    assert drawn[:2] == drawn[2:]
    monkeypatch.undo()
    with torch.no_grad():
        control.controlnet_mid_block.weight[0, 0] = 1.0
    validator(0, control)
    assert drawn[4:] != drawn[:2]
