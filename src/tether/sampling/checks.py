"""Checks that a base and its controls can generate what is asked, before anything is computed.

What a request alone gets wrong, `Request` refuses itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tether.base import Base
from tether.control import Injection
from tether.control.control import Control
from tether.errors import TetherError
from tether.kinds import find_kind
from tether.sampling.request import Request

__all__ = ["check_base", "check_controls", "check_size"]

MAX_SIDE = 4096


def check_size(base: Base, size: tuple[int, int]) -> None:
    """Refuses a size that the base cannot draw.

    Raises:
        TetherError: for sides that are not multiples of the latents' factor, or above 4,096.
    """
    factor = base.latent_factor
    if any(side % factor or not factor <= side <= MAX_SIDE for side in size):
        raise TetherError(f"width and height must be multiples of {factor} up to {MAX_SIDE}, not {size[0]}x{size[1]}")


def check_base(base: Base, request: Request) -> None:
    """Refuses a base that does not draw what is asked.

    Raises:
        TetherError: for a base made for inpainting without a mask, and for bases that are not supported.
    """
    taken, latents = base.denoiser.spec.input_channels, base.vae.config["latent_channels"]
    if taken not in (latents, 2 * latents + 1):
        raise TetherError(
            f"{base.name} takes {taken} channels, which is not supported: expected {latents} (latents) or "
            f"{2 * latents + 1} (latents, mask and masked image)"
        )
    if taken == 2 * latents + 1 and request.mask is None:
        raise TetherError(f"{base.name} is made for inpainting: give init and mask")
    if base.denoiser.spec.distilled_guidance:
        raise TetherError(
            f"{base.name} is a distilled base that takes the guidance scale as an input, which is not supported: use "
            "the plain base, for lcm with its LoRA"
        )


def check_controls(
    controls: Sequence[Control], conditions: Sequence[Any], injections: Sequence[Injection], request: Request
) -> None:
    """Refuses what does not go with the controls.

    Raises:
        TetherError: when there are not as many conditions or injections as controls, or a control for inpainting has no
            mask.
    """
    for what, given in (("conditions", conditions), ("injections", injections)):
        if len(given) != len(controls):
            raise TetherError(f"{len(controls)} controls need as many {what}, not {len(given)}")
    if request.mask is None and any(find_kind(control.kind).needs_mask for control in controls):
        raise TetherError("a control for inpainting needs to know where to draw: give init and mask")
