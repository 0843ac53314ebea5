"""What inpainting keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tether.base import Base
from tether.images import to_pixels
from tether.sampling import make_scheduler
from tether.sampling.inpaint import inpainting_of, paste_known, white_of

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


@pytest.mark.parametrize("inpaints", [False, True])
@pytest.mark.parametrize("offset", range(8))
def test_a_thin_stroke_draws_the_latents_that_it_touches_wherever_it_lies(
    tiny_base: Base, offset: int, inpaints: bool
) -> None:
    if inpaints:
        tiny_base.unet = make_unet("inpainting", cross_attention_dim=32)
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16 + offset, 0, 17 + offset, 64))
    pixels = to_pixels(photo())
    known = tiny_base.encode_images(pixels)
    touched = inpainting_of(tiny_base, pixels, known, mask).mask
    assert touched.shape == (1, 1, 8, 8)
    assert touched[..., 2].eq(1).all()
    assert touched.sum() == 8
    if offset != 0:  # as the first rules had it: sampled at the first pixel of each latent
        assert not inpainting_of(tiny_base, pixels, known, mask, rules=1).mask.any()


def test_a_soft_mask_stays_soft_for_latents_and_is_cut_for_what_was_trained_on_black_and_white(tiny_base: Base) -> None:
    levels = np.zeros((64, 64), np.uint8)
    levels[:8, :8], levels[:8, 8:16], levels[8:16, :8] = 102, 153, 255
    pixels = to_pixels(photo())
    known = tiny_base.encode_images(pixels)
    mask = inpainting_of(tiny_base, pixels, known, Image.fromarray(levels)).mask[0, 0]
    torch.testing.assert_close(mask[:2, :2], torch.tensor([[0.4, 0.6], [1.0, 0.0]]))
    tiny_base.unet = make_unet("inpainting", cross_attention_dim=32)
    mask = inpainting_of(tiny_base, pixels, known, Image.fromarray(levels)).mask[0, 0]
    assert mask[:2, :2].tolist() == [[0, 1], [1, 0]]


def test_the_known_image_is_pasted_by_the_soft_mask() -> None:
    drawn = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    mask = Image.fromarray(np.random.default_rng(2).choice([0, 64, 191, 255], (64, 64)).astype(np.uint8))
    pasted = np.asarray(paste_known(drawn, photo(), mask)).astype(float)
    m = np.asarray(mask)[..., None] / 255
    exact = m * np.asarray(drawn) + (1 - m) * np.asarray(photo())
    assert np.abs(pasted - exact).max() <= 0.51
    assert np.array_equal(pasted[m[..., 0] == 0], np.asarray(photo())[m[..., 0] == 0])
    assert np.array_equal(pasted[m[..., 0] == 1], np.asarray(drawn)[m[..., 0] == 1])
