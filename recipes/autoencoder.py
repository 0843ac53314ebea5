"""Trains the shipped base's autoencoder: 128x128 pictures <-> 4x16x16 latents.

    python recipes/autoencoder.py --steps 8000 --out runs/autoencoder       (again: continues)

Loss: L1 and L2 of the pixels + L1 of the picture's gradients (edges are what a control is about) + a little KL.
Most steps see random 64x64 windows: the network has no attention, so what it learns there holds at any
size, and a window costs a quarter of a picture. No held-out name or scene is seen.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from common import SIZE, Pictures, Prefetch, cosine, load_drawings, load_state, save_state, to_tensor
from tether.datasets.emoji import BACKGROUNDS, is_held_out, place

WINDOW, BATCH, SEED = 64, 24, 1


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
    """64 pictures that no training sees, `(64, 3, 128, 128)` in [-1, 1]: 3D and flat emoji, and scenes if there."""
    rng, pictures = np.random.default_rng(0), []
    for name in ("3d", "flat"):
        unseen = [d for d in load_drawings(folder / f"emoji-{name}.npz") if is_held_out(d.name)]
        for drawing in unseen[:24]:
            colour = BACKGROUNDS[str(rng.choice(list(BACKGROUNDS)))]
            pictures.append(place(drawing.rgba, SIZE, colour, 0.9, (0.0, 0.0)))
    scenes = folder / "scenes-held-out.npz"
    if scenes.exists():
        with np.load(scenes) as pack:
            pictures += list(pack["pixels"][:16])
    return to_tensor(np.stack(pictures))


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: Tensor) -> float:
    """Mean PSNR of the round trip in dB, in 8-bit terms over [0, 255]."""
    with torch.autocast("cpu", torch.bfloat16):
        decoded = vae.decode(vae.encode(pictures).latent_dist.mode()).sample
    error = (decoded.float().clamp(-1, 1) - pictures).square().mean(dim=(1, 2, 3)) / 4
    return float((-10 * error.log10()).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("runs/autoencoder"))
    arguments = parser.parse_args()

    torch.manual_seed(SEED)
    vae = build()
    optimiser = torch.optim.AdamW(vae.parameters(), arguments.lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    pictures, first = Pictures(arguments.data), 0
    if state := load_state(arguments.out / "state.pt"):
        vae.load_state_dict(state["vae"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]

    def batch(step: int) -> Tensor:
        rng = np.random.default_rng([SEED, step])
        windows = []
        for _ in range(BATCH):
            pixels = pictures.draw(rng).pixels
            y, x = rng.integers(0, SIZE - WINDOW + 1, 2)
            windows.append(pixels[y : y + WINDOW, x : x + WINDOW])
        return to_tensor(np.stack(windows))

    batches, unseen, started = Prefetch(batch, first), held_out_pictures(arguments.data), time.time()
    for step in range(first, arguments.steps):
        for group in optimiser.param_groups:
            group["lr"] = arguments.lr * cosine(step, arguments.steps, warmup=200, floor=0.01)
        target = batches(step)
        torch.manual_seed(SEED * 10**6 + step)
        with torch.autocast("cpu", torch.bfloat16):
            latent = vae.encode(target).latent_dist
            decoded = vae.decode(latent.sample()).sample
        loss = reconstruction_loss(decoded.float(), target) + 1e-4 * latent.kl().float().mean() / 256
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if (step + 1) % 100 == 0:
            seconds = (time.time() - started) / (step + 1 - first)
            quality = f"{psnr(vae, unseen):.2f} dB" if (step + 1) % 500 == 0 else ""
            print(f"{step + 1} loss {loss.item():.4f} {seconds:.3f} s/step {quality}", flush=True)
        if (step + 1) % 500 == 0 or step + 1 == arguments.steps:
            state = {"vae": vae.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
            save_state(arguments.out / "state.pt", state)
    vae.save_pretrained(arguments.out / "vae")


if __name__ == "__main__":
    main()
