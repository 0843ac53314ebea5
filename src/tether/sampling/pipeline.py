"""Pipeline: a prompt, conditions and a seed in; images out.

    condition --encode, once--> hint --Control--> signal --Injection--> locked denoiser --scheduler--> decode

Text-to-image, image-to-image (`init`) and inpainting (`init` and `mask`) are the same loop with another start.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from tether.base import Base, load_base
from tether.base.precision import slow_type
from tether.control import Injection
from tether.control.control import Control
from tether.control.load import load_control
from tether.errors import TetherError
from tether.images import FitRule, fit, from_pixels, to_rgb
from tether.kinds import find_kind
from tether.sampling.calls import read_call
from tether.sampling.checks import (
    check_base,
    check_controls,
    check_mask,
    check_size,
    empty_conditions,
    idle_controls,
    open_conditions,
)
from tether.sampling.combine import Combine
from tether.sampling.engines import Engine, engine
from tether.sampling.guidance import Guidance
from tether.sampling.inpaint import paste_known, white_of
from tether.sampling.inputs import Map, map_pixels
from tether.sampling.less import deep_of, engine_for, less_work
from tether.sampling.loop import Step, denoise
from tether.sampling.prompts import guidance_of
from tether.sampling.request import FAST, Request
from tether.sampling.samplers import Sigmas, Spacing, step_arguments
from tether.sampling.start import idle_values, initial_noise, start_of
from tether.sampling.step import Steering, make_step
from tether.sampling.steps import scheduler_of

__all__ = ["Pipeline"]

_DEFAULT = Request(prompt="")


class Pipeline:
    """A locked base and the controls that steer it.

    Args:
        base: the locked model, or what `load_base` opens.
        controls: any number of controls that fit the base, each a control or what `load_control` opens; or one of
            them. They are moved in place to its device and dtype, and out of training mode.
        engine: what computes denoiser and controls: a name of `tether.sampling.engines`, "auto", or an `Engine`; by
            default that of the base.
        notify: called with a line about each thing in a request that has no effect, for people; by default a warning.

    Raises:
        TetherError: when a control does not fit the base, or the engine is unknown.
    """

    def __init__(
        self,
        base: Base,
        controls: Sequence[Control] = (),
        *,
        engine: str | Engine | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        base = load_base(base) if isinstance(base, (str, Path)) else base
        if not isinstance(base, Base):
            raise TetherError(f"base is a {type(base).__name__}: open it with tether.load_base")
        controls = [_control(one, base) for one in ([controls] if isinstance(controls, _ONE) else controls)]
        for control in controls:
            control.check_fits(base)
        self.base = base
        self.controls = [control.to(base.device, base.dtype).eval() for control in controls]
        self.engine = _engine(engine or base.engine, base)
        self.notify = notify or _warn

    def __call__(
        self,
        prompt: str,
        conditions: Sequence[Image.Image] = (),
        *,
        seed: int | Sequence[int] = _DEFAULT.seed,
        count: int = _DEFAULT.count,
        negative_prompt: str = _DEFAULT.negative_prompt,
        steps: int = _DEFAULT.steps,
        guidance_scale: float = _DEFAULT.guidance_scale,
        scheduler: str = _DEFAULT.scheduler,
        spacing: Spacing | None = _DEFAULT.spacing,
        sigmas: Sigmas | None = _DEFAULT.sigmas,
        eta: float = _DEFAULT.eta,
        guidance_rescale: float = _DEFAULT.guidance_rescale,
        guidance_window: tuple[float, float] = _DEFAULT.guidance_window,
        injections: Sequence[Injection] | None = None,
        deep_every: int = _DEFAULT.deep_every,
        deep_skips: int = _DEFAULT.deep_skips,
        deep_window: tuple[float, float] = _DEFAULT.deep_window,
        merge_tokens: float = _DEFAULT.merge_tokens,
        fast: bool = _DEFAULT.fast,
        combine: Combine = _DEFAULT.combine,
        size: tuple[int, int] | None = _DEFAULT.size,
        fit: FitRule = _DEFAULT.fit,
        init: Image.Image | None = _DEFAULT.init,
        init_latents: Literal["mean", "sample"] = _DEFAULT.init_latents,
        denoising_strength: float = _DEFAULT.denoising_strength,
        mask: Image.Image | None = _DEFAULT.mask,
        clip_skip: int = _DEFAULT.clip_skip,
        output: Literal["pil", "latents"] = "pil",
        on_step: Callable[[Step], None] | None = None,
        **other_names: Any,
    ) -> list[Image.Image] | Tensor:
        """Generates images. What is not listed here is as in `tether.sampling.request.Request`, defaults too.

        Args:
            prompt: also a list, for an image or `count` images a prompt; image k of all has seed + k.
            conditions: one condition map a control, in the order of the controls; fitted to the size. Instead of a map,
                a list has one an image. A map is a PIL image, a path, an array `(H, W)` or `(H, W, C)`, or a tensor
                `(C, H, W)`, of bytes or floats in [0, 1]; so are `init` and `mask`.
            injections: one a control: strength, weighting, CFG branches, window, mask; by default full strength.
            output: "pil", or "latents" for the clean latents `(B, C, h, w)`.
            on_step: called after each step with a `Step`.
            other_names: arguments under older names and those of diffusers: `num_inference_steps`, `image`,
                `controlnet_conditioning_scale`, ...; see `tether.sampling.calls`.

        Returns:
            The images, RGB, or the latents. The same arguments on the same machine give the same bytes.

        Raises:
            TetherError: for arguments that are wrong, and when decoding produces NaN or Inf, in one line.
        """
        values = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "conditions": conditions,
            "injections": injections,
            "output": output,
            "seed": seed,
            "count": count,
            "steps": steps,
            "guidance_scale": guidance_scale,
            "scheduler": scheduler,
            "spacing": spacing,
            "sigmas": sigmas,
            "eta": eta,
            "guidance_rescale": guidance_rescale,
            "guidance_window": guidance_window,
            "deep_every": deep_every,
            "deep_skips": deep_skips,
            "deep_window": deep_window,
            "merge_tokens": merge_tokens,
            "combine": combine,
            "size": size,
            "fit": fit,
            "init": init,
            "init_latents": init_latents,
            "denoising_strength": denoising_strength,
            "mask": mask,
            "clip_skip": clip_skip,
        }
        values |= {name: value for name, value in FAST.items() if fast and values[name] == getattr(_DEFAULT, name)}
        done: list[Any] = []
        for call in read_call(values, other_names, len(self.controls)):
            latents = self.latents(call.request, call.conditions, call.injections, on_step)
            done += [latents] if call.latents else self._images(call.request, latents)
        return torch.cat(done) if isinstance(done[0], Tensor) else done

    def run(
        self, request: Request, on_step: Callable[[Step], None] | None = None, *, guidance: Guidance | None = None
    ) -> list[Image.Image]:
        """Generates a request's batch with this pipeline's base and controls.

        Args:
            request: the request, prepared.
            on_step: called after each step.
            guidance: the text of each image; by default the request's prompts for all.

        Raises:
            TetherError: when a control has a photo that is not annotated yet, and as `__call__`.
        """
        conditions = []
        for entry in request.controls:
            if entry.condition is None:
                raise TetherError(f"control {entry.ref} has a photo, not a condition: prepare the request first")
            conditions.append(entry.condition)
        injections = [entry.injection(request.rules < 3) for entry in request.controls]
        return self.draw(request, conditions, injections, on_step, guidance=guidance)

    def draw(
        self,
        request: Request,
        conditions: Sequence[Map | Sequence[Map]],
        injections: Sequence[Injection] | None = None,
        on_step: Callable[[Step], None] | None = None,
        *,
        guidance: Guidance | None = None,
    ) -> list[Image.Image]:
        """The images of a request's batch; arguments as for `latents`."""
        return self._images(request, self.latents(request, conditions, injections, on_step, guidance=guidance))

    def _images(self, request: Request, latents: Tensor) -> list[Image.Image]:
        """Decoded, and with what inpainting keeps as it was."""
        images = self.decode(latents)
        if request.init is None or request.mask is None or request.rules == 1:
            return images
        known = fit(to_rgb(request.init), *images[0].size, request.fit)
        mask = fit(request.mask, *images[0].size, request.fit)
        return [paste_known(image, known, mask) for image in images]

    @torch.no_grad()
    def latents(
        self,
        request: Request,
        conditions: Sequence[Map | Sequence[Map]],
        injections: Sequence[Injection] | None = None,
        on_step: Callable[[Step], None] | None = None,
        *,
        guidance: Guidance | None = None,
    ) -> Tensor:
        """The clean latents `(B, C, h, w)` of a request's batch; its `controls` are not used.

        Args:
            request: everything but the controls.
            conditions: for each control one map, or one an image.
            injections: one a control.
            on_step: called after each step.
            guidance: the text of each image; by default the request's prompts for all.
        """
        base, size = self.base, request.size or (self.base.sample_size, self.base.sample_size)
        injections = [Injection()] * len(self.controls) if injections is None else injections
        check_controls(self.controls, conditions, injections, request)
        if request.rules > 3:
            pairs = zip(injections, self.controls, strict=True)
            injections = [injection.recommended(control.sides) for injection, control in pairs]
        check_base(base, request)
        check_size(base, size)
        self._notify(slow_type(base.dtype, base.device), check_mask(request, size))
        scheduler = scheduler_of(request, base)
        guidance = guidance_of(request, base, size) if guidance is None else guidance

        generators = [torch.Generator().manual_seed(seed) for seed in request.seeds]
        noise = initial_noise(generators, size, base)
        start = start_of(request, base, size, scheduler, noise, generators)
        timesteps = scheduler.timesteps[start.skipped * scheduler.order :]
        self._notify(*idle_controls(self.controls, injections, len(timesteps)), *idle_values(request, start, base))
        engine, *lines = engine_for(request, self.engine)
        deep, *more = deep_of(request, base, self.controls)
        self._notify(*lines, *more)
        step = make_step(
            base.denoiser,
            [
                Steering(control, self._hint(control, condition, request, size), injection, request.rules > 1)
                for control, condition, injection in zip(self.controls, conditions, injections, strict=True)
            ],
            guidance,
            len(timesteps),
            engine=engine,
            combine=request.combine,
            guidance_window=request.guidance_window,
            deep=deep,
            extra_channels=start.inpainting and start.inpainting.extra_channels,
        )
        with less_work(request, engine, [base.denoiser.network, *self.controls], start.latents):
            latents = denoise(
                step,
                start.latents,
                scheduler,
                base.noise,
                start=start.skipped,
                widened=request.rules > 3,
                arguments=step_arguments(request.scheduler, generators, request.eta),
                after=start.inpainting and start.inpainting.keep_known(scheduler, noise, timesteps),
                on_step=on_step,
            )
        self._notify(*engine.taken_notes())
        return latents

    def _notify(self, *lines: str | None) -> None:
        for line in lines:
            if line is not None:
                self.notify(line)

    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Latents `(B, C, h, w)` -> B images, one by one: decoding is the moment of the highest memory use.

        Raises:
            TetherError: when the numbers are NaN or Inf.
        """
        return [from_pixels(_finite(self.base.decode_latents(_finite(one[None]))))[0] for one in latents]

    def _hint(
        self, control: Control, conditions: Map | Sequence[Map], request: Request, size: tuple[int, int]
    ) -> Tensor:
        """Fits and encodes one map, or one an image. Controls for inpainting see the lowest value where the mask is
        white."""
        kind, channels = find_kind(control.kind), control.condition_channels
        listed = conditions if isinstance(conditions, (list, tuple)) else [conditions]
        maps = [map_pixels(one, control.kind, channels, size, request.fit) for one in listed]  # type: ignore[arg-type]
        pixels = torch.cat(maps)
        self._notify(self._says_little(control, pixels, request))
        if kind.needs_mask and request.mask is not None:
            pixels = pixels.masked_fill(white_of(fit(request.mask, *size, request.fit)), kind.value_range[0])
        return control.encode(pixels.to(self.base.device, self.base.dtype))

    def _says_little(self, control: Control, pixels: Tensor, request: Request) -> str | None:
        """A line about maps that say nothing or leave the picture open; what else steers it settles it too."""
        empty = empty_conditions(control.name, control.kind, pixels)
        if empty is not None or len(self.controls) > 1 or request.init is not None:
            return empty
        return open_conditions(control.name, control.kind, pixels, prompted=bool(request.prompt.strip()))


_ONE = (str, Path, nn.Module)


def _control(given: Any, base: Base) -> Control:
    """A control, opened if it is a path or a name."""
    if isinstance(given, (str, Path)):
        return load_control(given, base=base, dtype=base.dtype, device=base.device)
    if not isinstance(given, Control):
        raise TetherError(f"a control is a {type(given).__name__}: open it with tether.load_control(PATH, base=base)")
    return given


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=6)  # of the call of the pipeline


def _engine(named: str | Engine, base: Base) -> Engine:
    return engine(named, base.device.type) if isinstance(named, str) else named


def _finite(numbers: Tensor) -> Tensor:
    if not numbers.isfinite().all():
        raise TetherError("decoding produced NaN or Inf: use float32 or bfloat16, or a lower guidance_scale")
    return numbers
