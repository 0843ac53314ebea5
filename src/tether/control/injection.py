"""How strongly, where, when and on which side of guidance a control acts (paper, section 3.4).

    r_i <- strength * w_i * mask_i * r_i

| weighting     | w_i, i = 0..n-1 in the encoder's order, the middle last      | acts on           |
|---------------|--------------------------------------------------------------|-------------------|
| "balanced"    | 1                                                            | both sides        |
| "conditional" | 1                                                            | conditional only  |
| "cfg-rw"      | latent height / h_i: 64 / h_i at 512 pixels, as in the paper | conditional only  |
| "released"    | 0.825^(n-1-i), the released code's guess mode                | conditional only  |
| "diffusers"   | from 0.1 to 1 evenly in the logarithm, its guess mode        | conditional only  |
| a sequence    | as given, one for each of the n                              | both sides        |

Classifier-free guidance is ε = ε_uc + β (ε_c - ε_uc). With a control on both sides and no prompt the bracket
is nothing and guidance is gone; with a control on ε_c alone guidance is very strong. The paper's answer is
control on ε_c alone with a weight a resolution ("cfg-rw"): 1 on the finest layers, 8 on the coarsest.

Between the two lies a share u of the control on ε_uc. To first order guidance then adds u + β (1 - u) times what the
control does: lines are followed closer as u falls from 1, both sides, to 0, the conditional side alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Literal, Protocol, get_args

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from tether.control.signal import Residuals
from tether.errors import TetherError

__all__ = ["Control", "Injection", "Sides", "Weighting", "combine"]

Weighting = Literal["balanced", "conditional", "cfg-rw", "released", "diffusers"]
Sides = Literal["both", "conditional"] | float


class Control(Protocol):
    """What `combine` needs of a ControlNet; `ControlNet` is one, and so may be a compiled one."""

    @property
    def pools_globally(self) -> bool: ...

    def __call__(
        self,
        latents: Tensor,
        timestep: int | float | Tensor,
        text_states: Tensor,
        hint: Tensor,
        added_conditions: Mapping[str, Tensor] | None = None,
    ) -> Residuals: ...


@dataclass(frozen=True, eq=False)
class Injection:
    """How one control's residuals are added to the denoiser.

    Attributes:
        strength: factor on everything, 0 or more; at 0 the control is not even run.
        weighting: a name from the table above, or one weight for each residual.
        sides: "both" or "conditional", or the share u in [0, 1] of the control that the unconditional side gets,
            1 for "both" and 0 for "conditional"; when left out, what the table says, and "conditional" for a
            control that pools globally (as the released code and diffusers have it).
        window: (start, end) of the sampling trajectory, 0 <= start < end <= 1. Step i of n is inside unless
            i/n < start or (i+1)/n > end.
        mask: where the control acts, 1 fully and 0 not at all: (1, 1, H, W) or (B, 1, H, W) in [0, 1], or a
            PIL image. It is averaged down to each residual's size, so H and W may be any. Kept as a tensor.

    Raises:
        TetherError: when a value is not as above.
    """

    strength: float = 1.0
    weighting: Weighting | Sequence[float] = "balanced"
    sides: Sides | None = None
    window: tuple[float, float] = (0.0, 1.0)
    mask: Tensor | Image.Image | None = None

    def __post_init__(self) -> None:
        if not _is_number(self.strength) or self.strength < 0:
            raise TetherError(f"strength is {self.strength!r}; it must be a number, 0 or more")
        object.__setattr__(self, "weighting", _checked_weighting(self.weighting))
        object.__setattr__(self, "sides", _checked_sides(self.sides))
        object.__setattr__(self, "window", _checked_window(self.window))
        if self.mask is not None:
            object.__setattr__(self, "mask", _checked_mask(self.mask))

    def is_active(self, step: int, total_steps: int) -> bool:
        """Whether the control does anything at step `step` (from 0) of `total_steps`."""
        start, end = self.window
        outside = step / total_steps < start or (step + 1) / total_steps > end
        silent = self.strength == 0 or (not isinstance(self.weighting, str) and not any(self.weighting))
        return not outside and not silent

    def acts_on(self, pools_globally: bool = False) -> Sides:
        """The side or sides of guidance, the default resolved; a number lies between 0 and 1."""
        if self.sides is not None:
            return self.sides
        both = self.weighting == "balanced" or not isinstance(self.weighting, str)
        return "both" if both and not pools_globally else "conditional"

    def weights(self, residual_heights: Sequence[int], latent_height: int) -> list[float]:
        """strength * w_i for each residual.

        Args:
            residual_heights: h_i, the middle last.
            latent_height: height of the latents.

        Raises:
            TetherError: when explicit weights are not as many as the residuals.
        """
        n = len(residual_heights)
        if not isinstance(self.weighting, str):
            if len(self.weighting) != n:
                raise TetherError(f"weighting has {len(self.weighting)} weights; this base model needs {n}")
            w = list(self.weighting)
        elif self.weighting == "cfg-rw":
            w = [latent_height / h for h in residual_heights]
        elif self.weighting == "released":
            w = [0.825 ** (n - 1 - i) for i in range(n)]
        elif self.weighting == "diffusers":
            w = [10.0 ** (i / max(n - 1, 1) - 1) for i in range(n)]
        else:
            w = [1.0] * n
        return [self.strength * w_i for w_i in w]

    def apply(self, residuals: Residuals) -> Residuals:
        """The residuals weighted and masked: strength * w_i * mask_i * r_i.

        A mask of batch B serves residuals of batch B, and of 2B laid out [unconditional, conditional].

        Raises:
            TetherError: when weights or the mask's batch do not fit.
        """
        heights = residuals.heights
        residuals = residuals.scaled(self.weights(heights, heights[0]))
        mask = self.mask
        if not isinstance(mask, Tensor):
            return residuals
        batch = residuals.middle.shape[0]
        if mask.shape[0] not in (1, batch) and 2 * mask.shape[0] != batch:
            raise TetherError(f"mask has a batch of {mask.shape[0]}, which does not fit a batch of {batch}")
        if mask.shape[0] > 1:
            mask = mask.repeat(batch // mask.shape[0], 1, 1, 1)
        mask = mask.to(residuals.middle.device)
        at_size = {size: interpolate(mask, size, mode="area") for size in {r.shape[-2:] for r in residuals}}
        return residuals.map(lambda r: r * at_size[r.shape[-2:]].to(r.dtype))


def combine(
    controls: Sequence[Control],
    injections: Sequence[Injection],
    hints: Sequence[Tensor],
    latents: Tensor,
    timestep: int | float | Tensor,
    text_uncond: Tensor | None,
    text_cond: Tensor,
    step: int,
    total_steps: int,
    *,
    added_uncond: Mapping[str, Tensor] | None = None,
    added_cond: Mapping[str, Tensor] | None = None,
) -> Residuals | None:
    """The sum of several controls at one step, for the batch [unconditional, conditional] of guidance.

    A control that acts on the conditional side only is run on that half of the batch only; one that acts on both in
    different shares is run on both.

    Args:
        controls, injections, hints: one of each a control; a hint is what `ControlNet.encode` gave,
            (B, C0, h, w) or (1, C0, h, w).
        latents: (B, 4, h, w), not doubled.
        timestep: a number, a scalar tensor or (B,).
        text_uncond, text_cond: (B, T, D) each. Without `text_uncond` there is no guidance: everything is the
            conditional side, and the batch is B.
        step, total_steps: where in the trajectory this is, for the windows.
        added_uncond, added_cond: added conditions of each side, for the base models that have them.

    Returns:
        Residuals for a batch of 2B (B without guidance), or None when no control is active: the denoiser then
        runs as if there were none.

    Raises:
        TetherError: when there are not as many injections or hints as controls, or something does not fit.
    """
    if not len(controls) == len(injections) == len(hints):
        raise TetherError(
            f"{len(controls)} controls need as many injections ({len(injections)}) and hints ({len(hints)})"
        )
    on_both: Residuals | None = None
    on_conditional: Residuals | None = None
    for control, injection, hint in zip(controls, injections, hints, strict=True):
        if isinstance(injection.mask, Tensor) and len(injection.mask) not in (1, len(latents)):
            raise TetherError(
                f"mask has a batch of {len(injection.mask)}; for these latents it must be 1 or {len(latents)}"
            )
        if not injection.is_active(step, total_steps):
            continue
        sides = injection.acts_on(control.pools_globally)
        if text_uncond is not None and sides != "conditional":
            residuals = control(
                torch.cat([latents, latents]),
                _twice(timestep),
                torch.cat([text_uncond, text_cond]),
                hint if len(hint) == 1 else torch.cat([hint, hint]),
                _joined(added_uncond, added_cond),
            )
            residuals = injection.apply(residuals)
            if sides != "both":
                residuals = residuals.first_half_scaled(sides)
            on_both = _sum(on_both, residuals)
        else:
            residuals = control(latents, timestep, text_cond, hint, added_cond)
            on_conditional = _sum(on_conditional, injection.apply(residuals))
    if on_conditional is not None and text_uncond is not None:
        on_conditional = on_conditional.after_zeros()
    return _sum(on_both, on_conditional) if on_conditional is not None else on_both


def _sum(total: Residuals | None, residuals: Residuals) -> Residuals:
    return residuals if total is None else total + residuals


def _twice(timestep: int | float | Tensor) -> int | float | Tensor:
    if not isinstance(timestep, Tensor) or timestep.numel() == 1:
        return timestep
    return torch.cat([timestep, timestep])


def _joined(uncond: Mapping[str, Tensor] | None, cond: Mapping[str, Tensor] | None) -> Mapping[str, Tensor] | None:
    if (uncond or {}).keys() != (cond or {}).keys():
        raise TetherError("the two sides of guidance need the same added conditions: give added_uncond and added_cond")
    return {name: torch.cat([(uncond or {})[name], cond[name]]) for name in cond} if cond else None


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _checked_weighting(weighting: str | Sequence[float]) -> str | tuple[float, ...]:
    if isinstance(weighting, str):
        if weighting in get_args(Weighting):
            return weighting
    elif isinstance(weighting, Sequence) and len(weighting) and all(map(_is_number, weighting)):
        return tuple(float(weight) for weight in weighting)
    names = ", ".join(get_args(Weighting))
    raise TetherError(f"weighting is {weighting!r}; it must be one of {names}, or a list of one number a layer")


def _checked_sides(sides: Sides | None) -> Sides | None:
    if sides is None or sides == "both" or sides == "conditional":
        return sides
    if _is_number(sides) and 0 <= sides <= 1:
        return "conditional" if sides == 0 else "both" if sides == 1 else float(sides)
    raise TetherError(f"sides is {sides!r}; it must be 'both', 'conditional' or a share from 0 to 1")


def _checked_window(window: object) -> tuple[float, float]:
    if isinstance(window, Sequence) and len(window) == 2 and all(_is_number(edge) for edge in window):
        start, end = (float(edge) for edge in window)
        if 0 <= start < end <= 1:
            return start, end
    raise TetherError(f"window is {window!r}; it must be (start, end) with 0 <= start < end <= 1")


def _checked_mask(mask: Tensor | Image.Image) -> Tensor:
    if isinstance(mask, Image.Image):
        if mask.mode.startswith(("I", "F")):
            raise TetherError(f"mask is a picture of mode {mask.mode}; it must have 8 bits a channel")
        pixels = torch.frombuffer(bytearray(mask.convert("L").tobytes()), dtype=torch.uint8)
        return pixels.reshape(1, 1, mask.height, mask.width).float() / 255
    if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[1] != 1 or 0 in mask.shape:
        found = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise TetherError(f"mask is {found}; it must be (1, 1, H, W), (B, 1, H, W) or a PIL image")
    mask = mask.detach().float()
    if not (mask.min() >= 0 and mask.max() <= 1):  # written so that NaN fails
        raise TetherError(f"mask has values in [{mask.min():.3g}, {mask.max():.3g}]; they must be in [0, 1]")
    return mask
