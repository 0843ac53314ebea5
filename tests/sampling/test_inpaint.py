"""What inpainting keeps."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from tether.base import Base
from tether.images import to_pixels
from tether.sampling import make_scheduler
from tether.sampling.inpaint import inpainting_of, white_of

from ..tiny import make_unet


def half_white(size: int = 64) -> Image.Image:
    mask = Image.new("L", (size, size), 0)
    mask.paste(255, (size // 2, 0, size, size))
    return mask


def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def test_a_mask_is_white_from_the_middle_gray_on() -> None:
    levels = Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8))
    assert white_of(levels).tolist() == [[[[False, False, True, True]]]]


def test_the_known_part_is_put_back_at_the_level_of_the_next_timestep(tiny_base: Base) -> None:
    scheduler = make_scheduler("ddim", tiny_base.noise_schedule)
    scheduler.set_timesteps(4)
    pixels = to_pixels(photo())
    known, noise = tiny_base.encode_images(pixels), torch.randn(1, 4, 8, 8)
    after = inpainting_of(tiny_base, pixels, known, half_white()).keep_known(scheduler, noise, scheduler.timesteps)
    assert after is not None
    drawn = torch.full((1, 4, 8, 8), 7.0)
    for index in range(3):
        kept = after(drawn, index)
        noised = scheduler.add_noise(known, noise, scheduler.timesteps[index + 1].reshape(1))
        assert torch.equal(kept[..., :4], noised[..., :4])
        assert torch.equal(kept[..., 4:], drawn[..., 4:])
    assert torch.equal(after(drawn, 3)[..., :4], known[..., :4])


def test_a_denoiser_made_for_inpainting_sees_mask_and_masked_image_instead(tiny_base: Base) -> None:
    tiny_base.unet = make_unet("inpainting", cross_attention_dim=32)
    pixels = to_pixels(photo())
    known = tiny_base.encode_images(pixels).expand(2, -1, -1, -1)
    inpainting = inpainting_of(tiny_base, pixels, known, half_white())
    assert inpainting.extra_channels is not None
    assert inpainting.extra_channels.shape == (2, 5, 8, 8)
    assert inpainting.extra_channels[:, 0].eq(inpainting.mask[:, 0]).all()
    assert inpainting.keep_known(make_scheduler("ddim", tiny_base.noise_schedule), known, torch.arange(4)) is None
    gray = pixels.clone()
    gray[..., 32:] = 0
    assert torch.equal(inpainting.extra_channels[:, 1:], tiny_base.encode_images(gray).expand(2, -1, -1, -1))
