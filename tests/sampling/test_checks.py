"""What a base and controls refuse."""

from __future__ import annotations

import pytest
from PIL import Image

from tether.base import Base
from tether.control import Injection
from tether.errors import TetherError
from tether.sampling import Request
from tether.sampling.checks import check_base, check_controls, check_size

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


def test_a_distilled_base_that_takes_the_guidance_scale_is_refused(tiny_base: Base) -> None:
    """A consistency model: without the scale it would draw something wrong and say nothing."""
    tiny_base.unet = make_unet(time_cond_proj_dim=16)
    with pytest.raises(TetherError, match="use the plain base, for lcm with its LoRA"):
        check_base(tiny_base, Request(prompt=""))
