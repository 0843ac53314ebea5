"""Encodes random training pictures once, so that the denoiser never waits for the autoencoder.

    python recipes/latents.py --vae runs/autoencoder/vae --out data/latents.npz

First the autoencoder's latents are standardised: the mean and the standard deviation of each of the 4 channels
over the training pictures are folded into `quant_conv` and `post_quant_conv`, so that every channel has mean 0 and
variance 1 (`scaling_factor` is then 1). Pictures round-trip exactly as before. To go on training the shipped base, give
its own autoencoder, which is standardised already: `--vae src/tether/weights/base/vae`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from common import SIZE, Pictures, to_tensor
from tether.datasets.emoji import caption, compose

VARIANTS = {"3d emoji": 28, "flat emoji": 18, "other emoji": 6}
"""Random placements of each drawing."""
CAPTIONS = 6
"""Random captions of each picture."""


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: list[np.ndarray]) -> Tensor:
    """uint8 pictures -> latents `(N, 4, 16, 16)`, the posterior's means."""
    parts = []
    for start in range(0, len(pictures), 64):
        with torch.autocast("cpu", torch.bfloat16):
            batch = to_tensor(np.stack(pictures[start : start + 64]))
            parts.append(vae.encode(batch).latent_dist.mode().float())
    return torch.cat(parts)


@torch.no_grad()
def standardise(vae: AutoencoderKL, latents: Tensor) -> None:
    """Folds each latent channel's mean m and deviation s over `latents` `(N, 4, h, w)` into the autoencoder.

    The mean head becomes (W/s, (b - m)/s), the log-variance head's bias falls by 2 log s, and
    `post_quant_conv(z)` becomes `post_quant_conv(s z + m)`.
    """
    m, s = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    quant, post, n = vae.quant_conv, vae.post_quant_conv, len(m)
    quant.weight[:n] /= s.view(-1, 1, 1, 1)
    quant.bias[:n] = (quant.bias[:n] - m) / s
    quant.bias[n:] -= 2 * s.log()
    post.bias += post.weight.flatten(1) @ m
    post.weight *= s.view(1, -1, 1, 1)
    vae.register_to_config(scaling_factor=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path, default=Path("runs/autoencoder/vae"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("data/latents.npz"))
    parser.add_argument(
        "--centred",
        type=float,
        default=0.75,
        help="share of the placements in the middle; where the words leave open what lies where, the first steps of "
        "sampling draw the mean of all that it could be, and with placements all over that was a blob for every name; "
        "a control has lines to go by: 0 for it",
    )
    parser.add_argument("--base", type=Path, default=Path("runs/base"))
    arguments = parser.parse_args()

    vae = AutoencoderKL.from_pretrained(arguments.vae)
    pictures, rng = Pictures(arguments.data), np.random.default_rng(7)
    pixels: list[np.ndarray] = []
    captions: list[list[str]] = []
    for group, drawings in pictures.drawings.items():
        for drawing in drawings:
            for k in range(VARIANTS[group]):
                picture, background = compose(drawing, SIZE, rng, centred=k < arguments.centred * VARIANTS[group])
                pixels.append(picture)
                captions.append([caption(drawing, background, rng) for _ in range(CAPTIONS)])
    counts = {group: len(drawings) * VARIANTS[group] for group, drawings in pictures.drawings.items()}
    if pictures.scenes is not None:
        pixels += list(pictures.scenes)
        captions += pictures.scene_captions
        counts["scenes"] = len(pictures.scenes)

    if vae.config.scaling_factor != 1.0:  # 1 says that it has been done
        order = np.random.default_rng(8).permutation(len(pixels))[:1024]
        standardise(vae, encode(vae, [pixels[i] for i in order]))
    vae.save_pretrained(arguments.base / "vae")
    latents = encode(vae, pixels)
    print(f"{len(latents)} latents, mean {latents.mean():.3f}, std {latents.std():.3f}, {counts}")
    np.savez(
        arguments.out,
        latents=latents.half().numpy(),
        captions=np.array(json.dumps(captions)),
        counts=np.array(json.dumps(counts)),
        pixels=np.stack(pixels),
    )


if __name__ == "__main__":
    main()
