"""What a base and controls refuse."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from tether.base import Base
from tether.control import Injection
from tether.errors import TetherError
from tether.sampling import Request
from tether.sampling.checks import (
    check_base,
    check_controls,
    check_mask,
    check_size,
    empty_conditions,
    idle_controls,
    open_conditions,
)

from ..tiny import make_unet
from .fakes import FakeControl

IMAGE = Image.new("RGB", (64, 64))


@pytest.mark.parametrize("size", [(60, 64), (64, 4), (0, 64), (4104, 64), (200_000, 200_000)])
def test_sizes_are_multiples_of_the_latent_factor_up_to_a_limit(tiny_base: Base, size: tuple[int, int]) -> None:
    with pytest.raises(TetherError, match=f"multiples of 8 up to 4096, not {size[0]}x{size[1]}"):
        check_size(tiny_base, size)
    check_size(tiny_base, (4096, 8))


def test_as_many_conditions_and_injections_as_controls_are_needed() -> None:
    with pytest.raises(TetherError, match="1 controls need as many conditions, not 2"):
        check_controls([FakeControl()], [IMAGE, IMAGE], [Injection()], Request(prompt=""))
    with pytest.raises(TetherError, match="1 controls need as many injections, not 0"):
        check_controls([FakeControl()], [IMAGE], [], Request(prompt=""))


def test_a_control_for_inpainting_needs_a_mask() -> None:
    control = FakeControl()
    control.kind = "inpaint"
    with pytest.raises(TetherError, match="give init and mask"):
        check_controls([control], [IMAGE], [Injection()], Request(prompt=""))
    check_controls([control], [IMAGE], [Injection()], Request(prompt="", init=IMAGE, mask=IMAGE))


def test_a_base_made_for_inpainting_needs_a_mask(tiny_base: Base) -> None:
    tiny_base.unet = make_unet("inpainting")
    with pytest.raises(TetherError, match="is made for inpainting: give init and mask"):
        check_base(tiny_base, Request(prompt=""))
    check_base(tiny_base, Request(prompt="", init=IMAGE, mask=IMAGE))


def test_a_base_of_other_channels_is_refused(tiny_base: Base) -> None:
    tiny_base.unet = make_unet(in_channels=8)
    with pytest.raises(TetherError, match="takes 8 channels, which is not supported: expected 4"):
        check_base(tiny_base, Request(prompt=""))


@pytest.mark.parametrize(
    ("init", "mask", "says"),
    [
        ((64, 64), (512, 512), False),
        ((90, 70), (45, 35), False),
        ((300, 201), (64, 43), False),  # 42.88 rows
        ((80, 64), (64, 64), True),  # of the size that is drawn
    ],
)
def test_a_mask_has_the_shape_of_the_image_or_the_size_that_is_drawn(
    init: tuple[int, int], mask: tuple[int, int], says: bool
) -> None:
    request = Request(prompt="", init=Image.new("RGB", init), mask=Image.new("L", mask))
    line = check_mask(request, (64, 64))
    assert (line is not None) == says


@pytest.mark.parametrize(("init", "mask"), [((80, 64), (64, 80)), ((512, 768), (512, 512)), ((64, 64), (66, 62))])
def test_a_mask_of_another_shape_is_refused(init: tuple[int, int], mask: tuple[int, int]) -> None:
    request = Request(prompt="", init=Image.new("RGB", init), mask=Image.new("L", mask))
    message = f"mask is {mask[0]}x{mask[1]}, init {init[0]}x{init[1]}: give a mask of the image's shape, or .* 64x64"
    with pytest.raises(TetherError, match=message):
        check_mask(request, (64, 64))
    assert check_mask(request.model_copy(update={"rules": 1}), (64, 64)) is None


def test_each_idle_control_is_named_once_with_its_reason() -> None:
    names = ["canny", "depth", "seg", "pose", "mlsd", "control"]
    controls = [FakeControl() for _ in names]
    for control, name in zip(controls, names, strict=True):
        control.name = name
    nothing = Image.new("L", (64, 64))
    injections = [
        Injection(),
        Injection(window=(0.32, 0.38)),
        Injection(strength=0.0),
        Injection(mask=nothing),
        Injection(weighting=[0.0, 0.0]),
        Injection(window=(0.9, 1.0), strength=0.0),
    ]
    assert idle_controls(controls, injections, 8) == [
        "control depth has no effect: none of the 8 steps lies in its window 0.32-0.38",
        "control seg has no effect: its strength is 0",
        "control pose has no effect: its mask is black everywhere",
        "control mlsd has no effect: all its weights are 0",
        "control has no effect: its strength is 0",
    ]


@pytest.mark.parametrize(
    ("kind", "value", "line"),
    [
        ("canny", 0.0, "the condition of control c says nothing: it is black everywhere"),
        ("canny", 1.0, "the condition of control c says nothing: it is of one color everywhere"),
        ("depth", 0.5, "the condition of control c says nothing: it is of one color everywhere"),
        (None, 0.0, "the condition of control c says nothing: it is black everywhere"),
        (None, 0.5, None),
        ("tile", 0.5, None),
        ("seg", 0.5, None),
    ],
)
def test_a_condition_that_says_nothing_is_said(kind: str | None, value: float, line: str | None) -> None:
    pixels = torch.full((1, 3, 8, 8), value)
    assert empty_conditions("c", kind, pixels) == line
    pixels[0, 1, 3, 3] = 0.75
    assert empty_conditions("c", kind, pixels) is None


def test_of_several_conditions_the_empty_ones_are_counted() -> None:
    pixels = torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert empty_conditions("c", "canny", pixels) is None
    pixels[3] = 0
    assert empty_conditions("c", "canny", pixels) == "condition 4 of control c says nothing: it is black everywhere"
    pixels[8] = 1
    line = "conditions 4, 9 of control c say nothing: they are of one color everywhere"
    assert empty_conditions("c", "canny", pixels) == line
    pixels[:] = 0
    line = "conditions 1, 2, 3, 4, 5 and 4 more of control c say nothing: they are black everywhere"
    assert empty_conditions("c", "canny", pixels) == line


def test_a_condition_that_leaves_the_picture_open_is_said_and_what_settles_it() -> None:
    pixels = torch.zeros(2, 3, 64, 64)
    pixels[0, :, 30, 10:34] = 1  # seven of 256 cells
    pixels[1, :, 8:56, 8] = pixels[1, :, 8, 8:56] = pixels[1, :, 8:56, 55] = 1
    line = open_conditions("c", "canny", pixels[:1], prompted=True)
    assert line == (
        "the condition of control c may leave the picture open, so that seeds differ: connected lines run through 3% "
        "of it (tether inspect draws to find out); if so, draw more of the outline, in unbroken lines"
    )
    line = open_conditions("c", "canny", pixels, prompted=False)
    assert line is not None
    assert line.startswith("condition 1 of control c may leave the picture open")
    assert line.endswith(", and say in the prompt what it shows")
    assert open_conditions("c", "canny", pixels[1:], prompted=False) is None
    assert open_conditions("c", "depth", pixels, prompted=False) is None


def test_a_base_of_flow_matching_is_refused_and_not_sampled_as_another(tiny_base: Base) -> None:
    tiny_base.noise_schedule = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    with pytest.raises(TetherError, match=r"predicts flow_prediction .* cannot be sampled here"):
        check_base(tiny_base, Request(prompt=""))
