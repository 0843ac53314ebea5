"""Checks that a base and its controls can generate what is asked, before anything is computed.

What a request alone gets wrong, `Request` refuses itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tether.base import Base
from tether.control import Injection
from tether.control.control import Control
from tether.errors import TetherError
from tether.kinds import find_kind
from tether.kinds.openness import LIMITS, is_open, nothing_in, remedy, structure
from tether.sampling.request import Request

__all__ = [
    "check_base",
    "check_controls",
    "check_mask",
    "check_size",
    "empty_conditions",
    "idle_controls",
    "open_conditions",
]

MAX_SIDE = 4096


def check_size(base: Base, size: tuple[int, int]) -> None:
    """Refuses a size that the base cannot draw.

    Raises:
        TetherError: for sides that are not multiples of the latents' factor, or above 4,096.
    """
    factor = base.latent_factor
    if any(side % factor or not factor <= side <= MAX_SIDE for side in size):
        raise TetherError(f"width and height must be multiples of {factor} up to {MAX_SIDE}, not {size[0]}x{size[1]}")


SAMPLED = ("epsilon", "v_prediction")
"""What the samplers take for granted that a base predicts."""


def check_base(base: Base, request: Request) -> None:
    """Refuses a base that does not draw what is asked.

    Raises:
        TetherError: for a base made for inpainting without a mask, and for bases that are not supported.
    """
    if base.noise.prediction_type not in SAMPLED:
        raise TetherError(
            f"{base.name} predicts {base.noise.prediction_type} (flow matching), which cannot be sampled here: use a "
            f"base that predicts {' or '.join(SAMPLED)}"
        )
    taken, latents = base.denoiser.spec.input_channels, base.vae.config["latent_channels"]
    if taken not in (latents, 2 * latents + 1):
        raise TetherError(
            f"{base.name} takes {taken} channels, which is not supported: expected {latents} (latents) or "
            f"{2 * latents + 1} (latents, mask and masked image)"
        )
    if taken == 2 * latents + 1 and request.mask is None:
        raise TetherError(f"{base.name} is made for inpainting: give init and mask")


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


def check_mask(request: Request, size: tuple[int, int]) -> str | None:
    """Refuses a mask that does not lie on the image to inpaint.

    Args:
        request: its `init` and `mask`; both are fitted to the size, each by itself.
        size: width and height that are drawn.

    Returns:
        A line for people when the mask has the size that is drawn and not the image's shape: it lies on the image as it
        is fitted. None otherwise.

    Raises:
        TetherError: when it has neither.
    """
    if request.mask is None or request.init is None or request.rules == 1:
        return None
    (width, height), (mask_width, mask_height) = request.init.size, request.mask.size
    # The same aspect ratio, but for one pixel of rounding.
    if abs(width * mask_height - height * mask_width) <= max(width, height, mask_width, mask_height):
        return None
    if request.mask.size == size:
        return f"mask is {mask_width}x{mask_height}, init {width}x{height}: the mask lies on init as it is fitted"
    raise TetherError(
        f"mask is {mask_width}x{mask_height}, init {width}x{height}: give a mask of the image's shape, or of the size "
        f"that is drawn, {size[0]}x{size[1]}"
    )


def empty_conditions(name: str, kind: str | None, pixels: Tensor) -> str | None:
    """A line for people when condition maps say nothing; None if all say something.

    Args:
        name: of the control.
        kind: of the control; see `tether.kinds.openness.nothing_in`.
        pixels: `(B, C, H, W)`, one map or one an image.
    """
    why = [nothing_in(kind, one.permute(1, 2, 0).float().cpu().numpy()) for one in pixels]
    empty = [k for k, one in enumerate(why) if one]
    if not empty:
        return None
    color = "black" if all(why[k] == "black" for k in empty) else "of one color"
    verb, pronoun = ("say", "they are") if _several(empty, pixels) else ("says", "it is")
    return f"{_which(name, empty, pixels)} {verb} nothing: {pronoun} {color} everywhere"


def open_conditions(name: str, kind: str | None, pixels: Tensor, *, prompted: bool) -> str | None:
    """A line for people when condition maps may leave the picture open (`tether.kinds.openness`); None if none does.

    Args:
        name: of the control.
        kind: of the control; kinds that are not judged leave nothing open.
        pixels: `(B, C, H, W)`, one map or one an image, in [0, 1].
        prompted: whether there is a prompt.
    """
    if kind not in LIMITS or pixels.shape[1] != 3:
        return None
    maps = (pixels.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    found = [k for k, one in enumerate(maps) if is_open(kind, one, prompted=prompted)]
    if not found:
        return None
    most = max(structure(maps[k]) for k in found)
    return (
        f"{_which(name, found, pixels)} may leave the picture open, so that seeds differ: connected lines run through "
        f"{most:.0%} of it (tether inspect draws to find out); if so, {remedy(prompted=prompted)}"
    )


def _which(name: str, numbers: Sequence[int], pixels: Tensor) -> str:
    """What some of the conditions `(B, C, H, W)` of a control are called: "conditions 4, 9 of control c"."""
    which = "the condition"
    if len(pixels) > 1:
        which = f"condition{'s' if len(numbers) > 1 else ''} {', '.join(str(k + 1) for k in numbers[:5])}"
        which += f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"{which} of control {name}"


def _several(numbers: Sequence[int], pixels: Tensor) -> bool:
    return len(pixels) > 1 and len(numbers) > 1


def idle_controls(controls: Sequence[Control], injections: Sequence[Injection], total_steps: int) -> list[str]:
    """One line for each control that acts at no step, for people.

    Args:
        controls: the controls.
        injections: one each.
        total_steps: number of steps that run.
    """
    names = ["control" if control.name == "control" else f"control {control.name}" for control in controls]
    numbered = [f"{name} (number {k})" if names.count(name) > 1 else name for k, name in enumerate(names, 1)]
    reasons = [one.why_idle(total_steps) for one in injections]
    return [f"{name} has no effect: {why}" for name, why in zip(numbered, reasons, strict=True) if why is not None]
