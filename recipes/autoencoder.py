"""Trains the shipped base's autoencoder: 128x128 images <-> 4x16x16 latents.

    python recipes/autoencoder.py --steps 8000 --out runs/autoencoder       (again: continues)

Loss: L1 and L2 of the pixels + L1 of the image's gradients (edges are what a control is about) + a little KL.
Steps see random windows of data/pictures.npz: the network has no attention, so what it learns there holds at any
size, and a window of 64x64 costs a quarter of an image. No held-out name or scene is seen. With `--decoder-only` the
encoder stays as it is, and so do latents, denoiser and controls. A moving average of the weights is what is kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from common import DATA, SIZE, load_drawings, to_tensor
from rounds import Round, add_options
from tether.datasets.synthetic.emoji import BACKGROUNDS, is_held_out, place


def build() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=SIZE,
    )


def gradient_loss(a: Tensor, b: Tensor) -> Tensor:
    """L1 distance of horizontal and vertical differences, `(B, 3, H, W)` -> scalar."""
    e = a - b
    return e.diff(dim=-1).abs().mean() + e.diff(dim=-2).abs().mean()


def reconstruction_loss(decoded: Tensor, target: Tensor) -> Tensor:
    """L1 and twice L2 of the pixels + L1 of the gradients, `(B, 3, H, W)` in [-1, 1] -> scalar."""
    pixel = (decoded - target).abs().mean() + 2 * (decoded - target).square().mean()
    return pixel + gradient_loss(decoded, target)


def held_out_pictures(folder: Path) -> Tensor:
    """64 images that training never sees, `(64, 3, 128, 128)` in [-1, 1]: 3D and flat emoji, and scenes if there."""
    rng, pictures = np.random.default_rng(0), []
    for name in ("3d", "flat"):
        unseen = [d for d in load_drawings(folder / f"emoji-{name}.npz") if is_held_out(d.name)]
        for drawing in unseen[:24]:
            color = BACKGROUNDS[str(rng.choice(list(BACKGROUNDS)))]
            pictures.append(place(drawing.rgba, SIZE, color, 0.9, (0.0, 0.0)))
    scenes = folder / "scenes-held-out.npz"
    if scenes.exists():
        with np.load(scenes) as pack:
            pictures += list(pack["pixels"][:16])
    return to_tensor(np.stack(pictures))


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: Tensor) -> float:
    """Mean PSNR of the round trip in dB, in 8-bit terms over [0, 255]."""
    with torch.autocast(pictures.device.type, torch.bfloat16):
        decoded = vae.decode(vae.encode(pictures).latent_dist.mode()).sample
    error = (decoded.float().clamp(-1, 1) - pictures).square().mean(dim=(1, 2, 3)) / 4
    return float((-10 * error.log10()).mean())


def windows(pixels: Tensor, rows: Tensor, corners: Tensor, side: int) -> Tensor:
    """Windows of images, uint8 `(N, H, W, 3)` -> float `(B, 3, side, side)` in [-1, 1], channels last.

    Args:
        rows: which images, `(B,)`.
        corners: top and left of each window, `(B, 2)`.
    """
    along = torch.arange(side, device=pixels.device)
    y, x = corners[:, :1, None] + along[None, :, None], corners[:, 1:, None] + along[None, None, :]
    return to_tensor(pixels[rows[:, None, None], y, x])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, out="runs/autoencoder", steps=8000, batch=24, lr=1e-3, seed=1)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--start", type=Path, help="an autoencoder to go on from, as src/tether/weights/base/vae")
    parser.add_argument("--decoder-only", action="store_true", help="of the autoencoder at --start")
    parser.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    device = arguments.device
    if arguments.decoder_only and not arguments.start:
        parser.error("--decoder-only needs --start")

    torch.manual_seed(arguments.seed)
    torch.backends.cudnn.benchmark = True
    vae = AutoencoderKL.from_pretrained(arguments.start, torch_dtype=torch.float32) if arguments.start else build()
    vae.to(device, memory_format=torch.channels_last)
    if arguments.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    with np.load(arguments.data / "pictures.npz") as pack:
        pixels = torch.from_numpy(pack["pixels"]).to(device)
    unseen = held_out_pictures(arguments.data).to(device)

    def keep(average: AutoencoderKL) -> None:
        print(f"{psnr(average, unseen):.2f} dB", flush=True)
        average.save_pretrained(arguments.out / "vae")

    print(f"{psnr(vae, unseen):.2f} dB", flush=True)
    for step in (run := Round(vae, arguments, keep, log_every=250)):
        torch.manual_seed(arguments.seed * 10**6 + step)
        rows = torch.randint(len(pixels), (arguments.batch,), device=device)
        corners = torch.randint(SIZE - arguments.window + 1, (arguments.batch, 2), device=device)
        target = windows(pixels, rows, corners, arguments.window)
        with torch.autocast(device.type, torch.bfloat16):
            with torch.set_grad_enabled(not arguments.decoder_only):
                latent = vae.encode(target).latent_dist
                sample = latent.mode() if arguments.decoder_only else latent.sample()
            decoded = vae.decode(sample).sample
        loss = reconstruction_loss(decoded.float(), target)
        if not arguments.decoder_only:
            loss = loss + 1e-4 * latent.kl().float().mean() / latent.mean[0].numel()
        run.learn(loss, loss=loss)


if __name__ == "__main__":
    main()
