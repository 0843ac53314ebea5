"""How strongly, where, when and on which CFG branch a control acts (arXiv:2302.05543, section 3.4).

    r_i <- strength * w_i * mask_i * r_i

| weighting     | w_i, i = 0..n-1 in the encoder's order, the middle last          | acts on           |
|---------------|------------------------------------------------------------------|-------------------|
| "balanced"    | 1                                                                | both CFG branches |
| "conditional" | 1                                                                | conditional only  |
| "cfg-rw"      | latent height / h_i: 64 / h_i at 512 pixels, as in the paper     | conditional only  |
| "released"    | 0.825^(n-1-i), the guess mode of the authors' code               | conditional only  |
| "soft"        | 0.825^(12-i): on SDXL (n = 10) the middle gets 0.825^3           | both CFG branches |
| "diffusers"   | from 0.1 to 1, evenly spaced in the logarithm, its guess mode    | conditional only  |
| a sequence    | one number for each of the n                                     | both CFG branches |

"soft" and both branches are what programs after the authors' call "my prompt is more important"; "soft" with
`sides="conditional"` is their "ControlNet is more important". With 13 tensors its weights are those of "released".

Classifier-free guidance (arXiv:2207.12598) is ε = ε_uc + β (ε_c - ε_uc). With a control on both branches and no
prompt, the bracket is zero and guidance has no effect; with a control on ε_c alone, guidance is very strong. The
paper's answer is a control on ε_c alone with a weight for each resolution ("cfg-rw"): 1 on the finest features, 8 on
the coarsest.

`sides` may also be a share u of the control on ε_uc, between the two. To first order, guidance then multiplies the
control's effect by u + β (1 - u): the condition is followed more closely as u falls from 1 (both branches) to 0.

A request is checked with this before anything is drawn, so PyTorch is imported for masks and signals alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from tether.control.schedule import Schedule, parse_strength, with_window
from tether.errors import TetherError

if TYPE_CHECKING:
    from torch import Tensor

    from tether.control.signal import Signal

__all__ = ["Injection", "MaskResize", "Sides", "Weighting", "checked_sides", "is_inside"]

Weighting = Literal["balanced", "conditional", "cfg-rw", "released", "soft", "diffusers"]
Sides = Literal["both", "conditional"] | float
MaskResize = Literal["area", "bilinear"]


SLACK = 5e-6
"""Of the edges of a window, which people write with some decimals."""


def is_inside(window: tuple[float, float], step: int, total_steps: int, slack: float = SLACK) -> bool:
    """Whether step `step` (from 0) of `total_steps` lies in a window (start, end) of the trajectory."""
    start, end = window
    return not (step / total_steps < start - slack or (step + 1) / total_steps > end + slack)


class GrayImage(Protocol):
    """What of `PIL.Image.Image` a mask needs."""

    @property
    def mode(self) -> str: ...

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def info(self) -> Any: ...

    def convert(self, mode: str) -> Any: ...


@dataclass(frozen=True, eq=False)
class Injection:
    """How the signal of one control is added to the denoiser.

    Attributes:
        strength: factor on everything, 0 or more; at 0 the control is not run. Also a schedule over the steps, such as
            "0.2@0-0.3,0.6@0.3-1" or "0.2-0.8" (`tether.control.schedule`). A schedule of one constant part is stored as
            a number and a window.
        weighting: a name from the table above, or one weight for each injection point.
        sides: the CFG branches it acts on, "both" or "conditional", or the share u in [0, 1] of the control that the
            unconditional branch gets: 1 for "both", 0 for "conditional". By default as in the table, and
            "conditional" for a control that pools globally (as in the authors' code and diffusers); a pipeline takes
            what the control recommends (`Control.sides`) where the table says both branches for "balanced".
        window: (start, end) of the sampling trajectory, 0 <= start < end <= 1. Step i of n is inside unless
            i/n < start or (i+1)/n > end, to 5 decimals: 0.333333 is a third.
        mask: where the control acts, from 1 (fully) to 0 (not at all): a tensor or array, `(H, W)`, `(1, 1, H, W)` or
            `(B, 1, H, W)`, of floats in [0, 1], booleans or bytes; or an 8-bit PIL image: luminance times alpha, or
            alpha alone if all that is visible has one color. It is brought to the size of each tensor, so H and W may
            be any. Stored as a tensor. Of a control that pools globally it weights what is pooled: the signal is
            mean(mask * r).
        mask_resize: "area" averages the mask over what each element of a tensor covers; "bilinear" interpolates between
            the 4 nearest pixels, as ComfyUI and the ControlNet extension of A1111 do. By default "area": every pixel
            of the mask counts, so a thin region acts at every resolution, and nothing depends on where it lies.
        exact_window: compare the window to the last bit, as older versions did.
        every: the control is run at each `every`-th of the steps at which it acts, and its last signal serves those
            between, with the strength of their own step: less work, and a signal that is up to `every` - 1 steps old.
        tolerance: the control is run by need: its last signal serves while it is expected to have changed by no more
            than this share of its length, measured where the control is run (`tether.sampling.reuse`). 0: at each step.

    Raises:
        TetherError: when a value is not as above.
    """

    strength: float | str | Schedule = 1.0
    weighting: Weighting | Sequence[float] = "balanced"
    sides: Sides | None = None
    window: tuple[float, float] = (0.0, 1.0)
    mask: Tensor | GrayImage | None = None
    mask_resize: MaskResize = "area"
    exact_window: bool = False
    every: int = 1
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "weighting", _checked_weighting(self.weighting))
        object.__setattr__(self, "sides", checked_sides(self.sides))
        strength, window = with_window(_checked_strength(self.strength), _checked_window(self.window))
        object.__setattr__(self, "strength", strength)
        object.__setattr__(self, "window", window)
        if self.mask is not None:
            object.__setattr__(self, "mask", _checked_mask(self.mask))
        if not isinstance(self.every, int) or isinstance(self.every, bool) or self.every < 1:
            raise TetherError(f"every is {self.every!r}; it must be a whole number, 1 or more")
        if not _is_number(self.tolerance) or not 0 <= self.tolerance < 1:
            raise TetherError(f"tolerance is {self.tolerance!r}; it must be a number from 0 to below 1")
        if self.mask_resize not in get_args(MaskResize):
            raise TetherError(
                f"mask_resize is {self.mask_resize!r}; it must be one of {', '.join(get_args(MaskResize))}"
            )

    def is_active(self, step: int, total_steps: int) -> bool:
        """Whether the control acts at step `step` (from 0) of `total_steps`."""
        return self._is_inside(step, total_steps) and not self._is_silent() and self.strength_at(step, total_steps) > 0

    def strength_at(self, step: int, total_steps: int) -> float:
        """The strength at step `step` (from 0) of `total_steps`, whether inside the window or not."""
        strength: Any = self.strength  # a text was read
        return strength.at(step, total_steps) if isinstance(strength, Schedule) else strength

    def why_idle(self, total_steps: int) -> str | None:
        """Why the control acts at no step of `total_steps`, for people; None if it acts."""
        if self.strength == 0:
            return "its strength is 0"
        if not any(self.strength_at(step, total_steps) for step in range(total_steps)):
            return f"its strength {self.strength} is 0 at all of the {total_steps} steps"
        if self._is_silent():
            return "all its weights are 0"
        if not any(self._is_inside(step, total_steps) for step in range(total_steps)):
            window = "-".join(f"{edge:g}" for edge in self.window)
            return f"none of the {total_steps} steps lies in its window {window}"
        if not any(self.is_active(step, total_steps) for step in range(total_steps)):
            return f"its strength {self.strength} is 0 at all of the {total_steps} steps in its window"
        if self.mask is not None and not self._tensor(self.mask).any():
            return "its mask is black everywhere"
        return None

    @staticmethod
    def _tensor(mask: Any) -> Tensor:
        """A mask as it is once it was checked."""
        return mask

    def _is_inside(self, step: int, total_steps: int) -> bool:
        return is_inside(self.window, step, total_steps, 0.0 if self.exact_window else SLACK)

    def _is_silent(self) -> bool:
        return self.strength == 0 or (not isinstance(self.weighting, str) and not any(self.weighting))

    def acts_on(self, pools_globally: bool = False) -> Sides:
        """The CFG branches it acts on, with the default resolved; a number is a share between 0 and 1."""
        if self.sides is not None:
            return self.sides
        both = self.weighting in ("balanced", "soft") or not isinstance(self.weighting, str)
        return "both" if both and not pools_globally else "conditional"

    def recommended(self, sides: Sides | None) -> Injection:
        """This injection with a control's recommended `sides`, where it says nothing itself and is "balanced"."""
        return (
            self
            if sides is None or self.sides is not None or self.weighting != "balanced"
            else replace(self, sides=sides)
        )

    def weights(self, heights: Sequence[int], latent_height: int, strength: float | None = None) -> list[float]:
        """strength * w_i for each injection point.

        Args:
            heights: h_i of each tensor, the middle last.
            latent_height: height of the latents.
            strength: of the step, see `strength_at`; by default the injection's own, if that is a number.

        Raises:
            TetherError: when explicit weights are not as many as injection points, or the strength is a schedule and
                that of the step is not given.
        """
        n, own = len(heights), self.strength if strength is None else strength
        if isinstance(own, (str, Schedule)):
            raise TetherError(f"strength {own} is a schedule: give the strength of the step, from strength_at")
        if not isinstance(self.weighting, str):
            if len(self.weighting) != n:
                raise TetherError(f"weighting has {len(self.weighting)} weights; this base model needs {n}")
            w = list(self.weighting)
        elif self.weighting == "cfg-rw":
            w = [latent_height / h for h in heights]
        elif self.weighting == "released":
            w = [0.825 ** (n - 1 - i) for i in range(n)]
        elif self.weighting == "soft":
            w = [0.825 ** (12 - i) for i in range(n)]
        elif self.weighting == "diffusers":
            w = [10.0 ** (i / max(n - 1, 1) - 1) for i in range(n)]
        else:
            w = [1.0] * n
        return [own * w_i for w_i in w]

    def apply(
        self,
        signal: Signal,
        latent_height: int | None = None,
        strength: float | None = None,
        heights: Sequence[int] = (),
    ) -> Signal:
        """The signal weighted and masked: strength * w_i * mask_i * r_i.

        Args:
            signal: at full strength. A mask of batch B serves a signal of batch B, and one of batch 2B that is
                [unconditional, conditional].
            latent_height: height of the latents; by default that of the first tensor, as in a ControlNet's signal.
            strength: of the step, where it is a schedule; see `weights`.
            heights: of the tensors of the control's whole signal, where `signal` is the first of them alone.

        Raises:
            TetherError: when weights or the mask's batch do not fit.
        """
        if not signal:
            return signal
        heights = heights or signal.heights
        signal = signal.scaled(self.weights(heights, latent_height or heights[0], strength)[: len(signal)])
        if self.mask is None:
            return signal
        from torch.nn.functional import interpolate

        mask, batch = self._tensor(self.mask), signal.batch
        if mask.shape[0] not in (1, batch) and 2 * mask.shape[0] != batch:
            raise TetherError(f"mask has a batch of {mask.shape[0]}, which does not fit a batch of {batch}")
        if mask.shape[0] > 1:
            mask = mask.repeat(batch // mask.shape[0], 1, 1, 1)
        mask = mask.to(next(iter(signal.values())).device)
        sizes = {r.shape[-2:] for r in signal.values()}
        at_size = {size: interpolate(mask, size, mode=self.mask_resize) for size in sizes}
        return signal.map(lambda r: r * at_size[r.shape[-2:]].to(r.dtype))


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _checked_strength(strength: object) -> float | Schedule:
    if isinstance(strength, str):
        return parse_strength(strength)
    if isinstance(strength, Schedule):
        return strength
    if _is_number(strength) and strength >= 0:  # type: ignore[operator]
        return strength  # type: ignore[return-value]
    raise TetherError(f"strength is {strength!r}; it must be a number, 0 or more, or a schedule")


def _checked_weighting(weighting: str | Sequence[float]) -> str | tuple[float, ...]:
    if isinstance(weighting, str):
        if weighting in get_args(Weighting):
            return weighting
    elif isinstance(weighting, Sequence) and len(weighting) and all(map(_is_number, weighting)):
        return tuple(float(weight) for weight in weighting)
    names = ", ".join(get_args(Weighting))
    raise TetherError(f"weighting is {weighting!r}; it must be one of {names}, or one number for each injection point")


def checked_sides(sides: Any) -> Sides | None:
    """`Injection.sides` as it is stored: 0 is "conditional", 1 is "both".

    Raises:
        TetherError: when it is something else than None, "both", "conditional" or a share from 0 to 1.
    """
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


def _checked_mask(mask: Any) -> Tensor:
    import torch
    from torch import Tensor

    if not isinstance(mask, Tensor) and hasattr(mask, "convert"):
        if mask.mode.startswith(("I", "F")):
            raise TetherError(f"mask is an image of mode {mask.mode}; it must have 8 bits per channel")
        return _levels(mask)[None, None] / 255
    if not isinstance(mask, Tensor) and hasattr(mask, "__array__"):
        mask = torch.as_tensor(mask)
    if isinstance(mask, Tensor) and mask.ndim == 2:
        mask = mask[None, None]
    if isinstance(mask, Tensor) and mask.dtype == torch.uint8:
        mask = mask / 255
    if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[1] != 1 or 0 in mask.shape:
        found = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise TetherError(f"mask is {found}; it must be (H, W), (1, 1, H, W), (B, 1, H, W) or a PIL image")
    mask = mask.detach().float()
    if not (mask.min() >= 0 and mask.max() <= 1):  # written so that NaN fails
        raise TetherError(f"mask has values in [{mask.min():.3g}, {mask.max():.3g}]; they must be in [0, 1]")
    return mask


def _levels(image: GrayImage) -> Tensor:
    """A PIL image as a mask `(H, W)` in 0..255, by the rule of `tether.images.to_mask`."""
    if "transparency" not in image.info and image.mode not in ("RGBA", "LA", "PA", "RGBa", "La"):
        return _pixels(image.convert("L"), 1)[..., 0]
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    luminance, pixels = _pixels(rgba.convert("L"), 1)[..., 0], _pixels(rgba, 4)
    colors, alpha = pixels[..., :3].reshape(-1, 3), pixels[..., 3]
    difference = (colors - colors[alpha.argmax()]).abs() * alpha.reshape(-1, 1)
    if alpha.min() < 255 and difference.max() <= _ONE_COLOR * 255:
        return alpha
    return (luminance * alpha / 255 + 0.5).floor()


_ONE_COLOR = 16
"""Levels of 255, times alpha, by which colors may differ and still count as one.

Strokes that a program has made smaller differ by up to 13 at their edges, by rounding and by overshoot."""


def _pixels(image: Any, channels: int) -> Tensor:
    """`(H, W, channels)` in 0..255."""
    width, height = image.size
    import torch

    levels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return levels.reshape(height, width, channels).float()
