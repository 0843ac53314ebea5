"""Inpainting: the part of an image under a mask is generated, the rest is kept, to the byte.

A denoiser made for inpainting sees mask and masked image as further channels (`extra_channels`). With any other
denoiser the known part is put back after each step, noised to the level of the next timestep (`keep_known`):

    z_t <- m z_t + (1 - m) (a_t z_known + s_t ε)

Of latents, every one that the mask touches is generated: m is the largest value of the mask within it, so that thin
strokes count wherever they lie. The mask may be soft. A denoiser made for inpainting, and a control, see it cut at half
gray, because they were trained on masks of black and white.

Latents cannot keep pixels: the autoencoder changes all of them. So the image itself is pasted back after decoding, by
the soft mask M of full size, as the original repository's inpainting does:

    x <- M x + (1 - M) x_known
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, interpolate

from tether.base import Base
from tether.images import to_condition, to_mask
from tether.sampling.request import RULES

__all__ = ["Inpainting", "inpainting_of", "paste_known", "white_of"]


@dataclass(frozen=True)
class Inpainting:
    """What to keep of an image.

    Attributes:
        mask: `(B, 1, h, w)`, from 1, where the image is generated, to 0, where it is kept.
        known: clean latents `(B, C, h, w)` of the image.
        masked: latents of the image with the masked part gray, for denoisers made for inpainting; None for others.
    """

    mask: Tensor
    known: Tensor
    masked: Tensor | None = None

    @property
    def extra_channels(self) -> Tensor | None:
        """`(B, 1 + C, h, w)`, mask and masked image, for denoisers that take them."""
        return None if self.masked is None else torch.cat([self.mask, self.masked], dim=1)

    def keep_known(self, scheduler: Any, noise: Tensor, timesteps: Tensor) -> Callable[[Tensor, int], Tensor] | None:
        """A function that puts the known part back after a step; None for denoisers that see it themselves.

        Args:
            scheduler: it knows the noise level of each timestep.
            noise: ε, `(B, C, h, w)`, the noise that the latents started from.
            timesteps: those that run; after the last one the known part is clean.
        """
        if self.masked is not None:
            return None

        def after(latents: Tensor, index: int) -> Tensor:
            following = timesteps[index + 1 : index + 2]
            known = scheduler.add_noise(self.known, noise, following) if len(following) else self.known
            return (1 - self.mask) * known + self.mask * latents

        return after


def inpainting_of(base: Base, pixels: Tensor, known: Tensor, mask: Image.Image, rules: int = RULES) -> Inpainting:
    """Brings a mask to the latents' size, and encodes the masked image where the base takes it.

    Args:
        base: the base.
        pixels: the image `(1, 3, H, W)` in [-1, 1].
        known: its latents `(B, C, h, w)`.
        mask: of H x W, white where the image is generated.
        rules: `Request.rules`.
    """
    white, size, inpaints = white_of(mask).to(base.device, base.dtype), known.shape[-2:], base.denoiser.spec.inpaints
    if rules == 1:
        small = interpolate(white, size)
    else:
        small = adaptive_max_pool2d(white if inpaints else _levels(mask).to(base.device, base.dtype), size)
    small = small.expand(len(known), -1, -1, -1)
    if not inpaints:
        return Inpainting(small, known)
    masked = base.encode_images(pixels * (white.to(pixels.device) < 0.5))
    return Inpainting(small, known, masked.expand_as(known))


def paste_known(drawn: Image.Image, known: Image.Image, mask: Image.Image) -> Image.Image:
    """The image that was drawn under a mask, the known one beside it, RGB; all three have one size."""
    return Image.composite(drawn, known, mask)


def white_of(mask: Image.Image) -> Tensor:
    """Where a mask is white, bool `(1, 1, H, W)`."""
    return _levels(mask) >= 0.5


def _levels(mask: Image.Image) -> Tensor:
    """A mask as `(1, 1, H, W)` in [0, 1]."""
    return to_condition(to_mask(mask))[:, :1]
