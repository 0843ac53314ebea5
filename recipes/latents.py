"""Encodes the random training images once, so that the denoiser never waits for the autoencoder.

    python recipes/latents.py --vae runs/autoencoder/vae --base runs/base
    python recipes/latents.py --pictures data/pictures-wide.npz --out data/latents-wide.npz --edges

First the autoencoder's latents are standardized: the mean and the standard deviation of each of the 4 channels
over the training images are folded into `quant_conv` and `post_quant_conv`, so that every channel has mean 0 and
variance 1 (`scaling_factor` is then 1). Images round-trip exactly as before. An autoencoder that was trained on after
that, as with `recipes/autoencoder.py --start`, is standardized again by `--again`; `--base` gets the result, and other
files of latents must be made again with it.

With `--edges`, for a control, Canny edges of random thresholds are found once too, `EDGES` of each image.
"""

from __future__ import annotations

import argparse
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from common import DATA, to_tensor
from tether.kinds.canny import random_canny

EDGES = 4
"""Edge maps of each image."""
BATCH = 64


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: np.ndarray) -> Tensor:
    """uint8 `(N, H, W, 3)` -> latents `(N, 4, h, w)`, the posterior's means; on the CPU."""
    parts = []
    for start in range(0, len(pictures), BATCH):
        with torch.autocast(vae.device.type, torch.bfloat16):
            batch = to_tensor(pictures[start : start + BATCH]).to(vae.device)
            parts.append(vae.encode(batch).latent_dist.mode().float().cpu())
    return torch.cat(parts)


@torch.no_grad()
def standardize(vae: AutoencoderKL, latents: Tensor) -> None:
    """Folds each latent channel's mean m and deviation s over `latents` `(N, 4, h, w)` into the autoencoder.

    The mean head becomes (W/s, (b - m)/s), the log-variance head's bias falls by 2 log s, and
    `post_quant_conv(z)` becomes `post_quant_conv(s z + m)`.
    """
    m, s = latents.mean(dim=(0, 2, 3)).to(vae.device), latents.std(dim=(0, 2, 3)).to(vae.device)
    quant, post, n = vae.quant_conv, vae.post_quant_conv, len(m)
    quant.weight[:n] /= s.view(-1, 1, 1, 1)
    quant.bias[:n] = (quant.bias[:n] - m) / s
    quant.bias[n:] -= 2 * s.log()
    post.bias += post.weight.flatten(1) @ m
    post.weight *= s.view(1, -1, 1, 1)
    vae.register_to_config(scaling_factor=1.0)


def edges(job: tuple[int, np.ndarray]) -> np.ndarray:
    """`EDGES` random edge maps of the image of a number, one bit a pixel: uint8 `(EDGES, H, W / 8)`."""
    number, picture = job
    rng = np.random.default_rng([9, number])
    return np.packbits(np.stack([random_canny(picture, rng) for _ in range(EDGES)]) > 0, axis=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path, default=Path("src/tether/weights/base/vae"))
    parser.add_argument("--pictures", type=Path, default=DATA / "pictures.npz")
    parser.add_argument("--out", type=Path, default=DATA / "latents.npz")
    parser.add_argument("--edges", action="store_true")
    parser.add_argument("--again", action="store_true", help="standardize although it was done")
    parser.add_argument("--base", type=Path, help="folder to write the standardized autoencoder to, as vae/")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    arguments = parser.parse_args()

    with np.load(arguments.pictures) as pack:
        pixels, captions, counts = pack["pixels"], pack["captions"], pack["counts"]
    vae = AutoencoderKL.from_pretrained(arguments.vae, torch_dtype=torch.float32).to(arguments.device)
    if arguments.again or vae.config.scaling_factor != 1.0:  # 1 says that it has been done
        if arguments.base is None:
            parser.error("the autoencoder will be standardised: --base says where to")
        order = np.sort(np.random.default_rng(8).permutation(len(pixels))[:2048])
        standardize(vae, encode(vae, pixels[order]))
    if arguments.base:
        vae.save_pretrained(arguments.base / "vae")
    latents = encode(vae, pixels)
    print(f"{len(latents)} latents, mean {latents.mean():.3f}, std {latents.std():.3f}, {counts}")
    arrays = {"latents": latents.half().numpy(), "captions": captions, "counts": counts}
    if arguments.edges:
        with Pool() as pool:
            arrays["edges"] = np.stack(pool.map(edges, enumerate(pixels), chunksize=256))
    np.savez(arguments.out, **arrays)


if __name__ == "__main__":
    main()
