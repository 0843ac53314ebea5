"""Pipeline: a prompt, conditions and a seed in; pictures out.

    condition --HintEncoder, once--> hint --> ControlNet --Injection--> residuals --> locked denoiser --> decode

Text-to-image, image-to-image (`init`) and inpainting (`init` and `mask`) are the same loop started elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Literal

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from tether.base import Base, ControlNet
from tether.control import Conditioning, Injection
from tether.errors import TetherError
from tether.images import FitRule, fit, fit_condition, from_pixels, to_condition, to_pixels
from tether.kinds import find_kind
from tether.sampling.loop import Inpainting, Step, denoise, initial_noise, start_from
from tether.sampling.samplers import make_scheduler, set_steps
from tether.sampling.step import Guidance, Steering, make_step

__all__ = ["Pipeline"]

MAX_SIDE = 4096


class Pipeline:
    """A locked base and the controls that steer it.

    Args:
        base: the locked model.
        controls: any number of controls that fit the base; moved in place to its device and dtype, and out of
            training mode.

    Raises:
        TetherError: when a control does not fit the base.
    """

    def __init__(self, base: Base, controls: Sequence[ControlNet] = ()) -> None:
        for control in controls:
            control.check_fits(base)
        self.base = base
        self.controls = [control.to(base.device, base.dtype).eval() for control in controls]

    @torch.no_grad()
    def __call__(
        self,
        prompt: str,
        conditions: Sequence[Image.Image] = (),
        *,
        seed: int | Sequence[int] = 0,
        count: int = 1,
        negative_prompt: str = "",
        steps: int = 20,
        guidance_scale: float = 5.0,
        scheduler: str = "dpmpp-2m",
        injections: Sequence[Injection] | None = None,
        size: tuple[int, int] | None = None,
        fit_rule: FitRule = "crop",
        init: Image.Image | None = None,
        strength: float = 0.6,
        mask: Image.Image | None = None,
        clip_skip: int = 0,
        output: Literal["pil", "latents"] = "pil",
        on_step: Callable[[Step], None] | None = None,
    ) -> list[Image.Image] | Tensor:
        """Draws pictures.

        Args:
            prompt: what to draw; `(words:1.2)` weighs words, and it may be longer than the text encoder's window.
            conditions: one condition image a control, in the controls' order; fitted to the size by `fit_rule`.
            seed: of the first picture, picture k has seed + k; or one seed a picture.
            count: number of pictures, when `seed` is one number.
            negative_prompt: what to keep away from.
            steps: denoising steps, 1 to 1000; 1 to 50 by "lcm". Above 100, counts that a scheduler cannot spread are
                refused.
            guidance_scale: s of classifier-free guidance; at 1 or less there is none.
            scheduler: a name of `tether.sampling.SCHEDULERS`.
            injections: one a control: strength, weighting, window, mask; full strength when left out.
            size: width and height in pixels, multiples of 8; the base's own square when left out.
            fit_rule: how conditions, `init` and `mask` of another size are fitted: "stretch", "crop" or "pad".
            init: a picture to start from (image-to-image).
            strength: how much of `init` is drawn anew, in (0, 1]; with a mask, in the masked part.
            mask: white where `init` is drawn anew, black where it stays (inpainting).
            clip_skip: last layers of the text encoder to leave out.
            output: "pil", or "latents" for the clean latents `(B, 4, h, w)`.
            on_step: called after each step with a `Step`.

        Returns:
            The pictures, RGB, or the latents. The same arguments on the same machine give the same bytes.

        Raises:
            TetherError: for arguments that are wrong, and where the numbers overflow, in one line.
        """
        one = isinstance(seed, Integral)
        seeds = [int(seed) + k for k in range(count)] if one else [int(each) for each in seed]  # type: ignore
        width, height = size or (self.base.sample_size, self.base.sample_size)
        self._check(seeds, steps, guidance_scale, (width, height), conditions, injections, init, mask, strength)
        sampler = make_scheduler(scheduler, self.base.noise_schedule)
        set_steps(sampler, scheduler, steps, self.base.device)

        guided = guidance_scale > 1
        texts = [negative_prompt, prompt] if guided else [prompt]
        encoded = self.base.encode_prompts(texts, clip_skip)
        sides = [encoded.row(k, len(seeds)) for k in range(len(texts))]
        if guided and not negative_prompt and self.base.zero_empty_negative:
            sides[0] = sides[0].zeros()
        sides = [self._with_sizes(side, (width, height)) for side in sides]

        generators = [torch.Generator().manual_seed(one) for one in seeds]
        factor = self.base.latent_factor
        channels = self.base.vae.config["latent_channels"]
        noise = initial_noise(generators, (channels, height // factor, width // factor), self.base)
        start, inpainting = 0, None
        if init is None:
            latents = noise * sampler.init_noise_sigma
        else:
            picture = to_pixels(fit(init, width, height, fit_rule))
            start = start_from(sampler, steps, strength)
            known = self.base.encode_pictures(picture).expand(len(seeds), -1, -1, -1)
            first = sampler.timesteps[start * sampler.order :][:1]
            whole = start == 0 and mask is not None
            latents = noise * sampler.init_noise_sigma if whole else sampler.add_noise(known, noise, first)
            if mask is not None:
                inpainting = self._inpainting(picture, known, fit(mask, width, height, fit_rule))

        extra = None
        if inpainting is not None and inpainting.masked is not None:
            extra = torch.cat([inpainting.mask, inpainting.masked], dim=1)
        step = make_step(
            self.base.denoiser,
            self._steering(conditions, injections, (width, height), fit_rule, mask),
            Guidance(sides[-1], sides[0] if guided else None, guidance_scale),
            len(sampler.timesteps[start * sampler.order :]),
            extra_channels=extra,
        )
        latents = denoise(
            step,
            latents,
            sampler,
            self.base.noise,
            generators=generators,
            start=start,
            inpainting=inpainting,
            noise=noise,
            on_step=on_step,
        )
        if output == "latents":
            return latents
        # One by one: decoding is the moment of the highest memory.
        return [from_pixels(_finite(self.base.decode_latents(_finite(one[None]))))[0] for one in latents]

    def check_size(self, width: int, height: int) -> None:
        """Refuses a size, in pixels, that cannot be drawn.

        Raises:
            TetherError: for sides that are no multiples of the latents' factor, or above 4,096.
        """
        factor = self.base.latent_factor
        if any(side % factor or not factor <= side <= MAX_SIDE for side in (width, height)):
            raise TetherError(f"width and height must be multiples of {factor} up to {MAX_SIDE}, not {width}x{height}")

    def _steering(
        self,
        conditions: Sequence[Image.Image],
        injections: Sequence[Injection] | None,
        size: tuple[int, int],
        fit_rule: FitRule,
        mask: Image.Image | None,
    ) -> list[Steering]:
        """Fits and encodes each condition, once. Controls for inpainting are shown -1 where the mask is white."""
        hints = []
        for control, condition in zip(self.controls, conditions, strict=True):
            pixels, kind = to_condition(fit_condition(condition, *size, fit_rule)), find_kind(control.kind)
            if kind.needs_mask and mask is not None:
                pixels = pixels.masked_fill(_white(fit(mask, *size, fit_rule)), kind.value_range[0])
            hints.append(control.encode(pixels.to(self.base.device, self.base.dtype), kind.value_range))
        each = injections or [Injection()] * len(hints)
        return [Steering(*one) for one in zip(self.controls, hints, each, strict=True)]

    def _inpainting(self, picture: Tensor, known: Tensor, mask: Image.Image) -> Inpainting:
        """The mask at the latents' size, and what a denoiser made for inpainting is shown of the picture."""
        white = _white(mask).to(self.base.device, self.base.dtype)
        small = interpolate(white, known.shape[-2:])
        masked = None
        if self.base.unet.config["in_channels"] == 2 * known.shape[1] + 1:
            masked = self.base.encode_pictures(picture * (white.to(picture.device) < 0.5))
            masked = masked.expand_as(known)
        return Inpainting(small.expand(len(known), -1, -1, -1), known, masked)

    def _with_sizes(self, side: Conditioning, size: tuple[int, int]) -> Conditioning:
        """The conditioning with SDXL's sizes (original, crop corner, target), where the base uses them."""
        if self.base.unet.config.get("addition_embed_type") != "text_time":
            return Conditioning(side.tokens)
        if side.pooled is None:
            raise TetherError(f"{self.base.name} needs pooled text states, which its text encoder does not give")
        width, height = size
        ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=self.base.dtype, device=self.base.device)
        return side.with_extras(time_ids=ids.expand(len(side), -1))

    def _check(
        self,
        seeds: list[int],
        steps: int,
        guidance_scale: float,
        size: tuple[int, int],
        conditions: Sequence[Image.Image],
        injections: Sequence[Injection] | None,
        init: Image.Image | None,
        mask: Image.Image | None,
        strength: float,
    ) -> None:
        problems: list[tuple[bool, str]] = [
            (not seeds, "count must be 1 or more"),
            (any(not 0 <= s < 2**63 for s in seeds), "a seed must be from 0 to 2**63 - 1"),
            (not 1 <= steps <= 1000, f"steps must be from 1 to 1000, not {steps}"),
            (not math.isfinite(guidance_scale), f"guidance must be a number, not {guidance_scale}"),
            (
                len(conditions) != len(self.controls),
                f"{len(self.controls)} controls need as many conditions, not {len(conditions)}",
            ),
            (
                injections is not None and len(injections) != len(self.controls),
                f"{len(self.controls)} controls need as many injections, not {len(injections or [])}",
            ),
            (
                mask is None and any(find_kind(control.kind).needs_mask for control in self.controls),
                "a control for inpainting needs to know where: give init and mask",
            ),
            (mask is not None and init is None, "a mask needs a picture: give init too"),
            (not 0 < strength <= 1, f"strength must be above 0 and at most 1, not {strength}"),
            (
                init is not None and int(steps * strength) < 1,
                f"{steps} steps at strength {strength} leave nothing to draw: raise one of them",
            ),
            (
                self.base.unet.config["in_channels"] == 9 and mask is None,
                f"{self.base.name} is made for inpainting: give init and mask",
            ),
            (
                bool(self.base.unet.config.get("time_cond_proj_dim")),
                f"{self.base.name} is a distilled base that is told its guidance, which is not known here: use the "
                "plain base, for lcm with its LoRA",
            ),
        ]
        taken, latents = self.base.unet.config["in_channels"], self.base.vae.config["latent_channels"]
        unknown = taken not in (latents, 2 * latents + 1)
        problems.append((unknown, f"{self.base.name} takes {taken} channels: neither latents nor those and a mask"))
        for wrong, line in problems:
            if wrong:
                raise TetherError(line)
        self.check_size(*size)


def _finite(numbers: Tensor) -> Tensor:
    if not numbers.isfinite().all():
        raise TetherError("the picture overflowed to numbers that are none: use float32 or bfloat16, or less guidance")
    return numbers


def _white(mask: Image.Image) -> Tensor:
    """Where a mask is white, bool `(1, 1, H, W)`."""
    return to_condition(mask.convert("L").convert("RGB"))[:, :1] >= 0.5
