"""Trains the shipped autoencoder's decoder on, alone: latents stay what they are, and so do denoiser and controls.

    python recipes/decoder.py --steps 2500 --out runs/decoder                (again: continues)
    python recipes/ship.py base/vae runs/decoder/vae

Loss: the autoencoder's, without its encoder: L1 and L2 of the pixels + L1 of the picture's gradients, on whole pictures
of data/latents.npz, whose latents are encoded already. No held-out name or scene is seen.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from autoencoder import held_out_pictures, psnr, reconstruction_loss
from common import Prefetch, cosine, load_state, save_state, to_tensor

BATCH, SEED = 6, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--vae", type=Path, default=Path("src/tether/weights/base/vae"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("runs/decoder"))
    arguments = parser.parse_args()

    with np.load(arguments.data / "latents.npz") as pack:
        latents, pixels = pack["latents"], pack["pixels"]
    vae = AutoencoderKL.from_pretrained(arguments.vae, torch_dtype=torch.float32).requires_grad_(False)
    trained = nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True)
    optimiser = torch.optim.AdamW(trained.parameters(), arguments.lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    first = 0
    if state := load_state(arguments.out / "state.pt"):
        trained.load_state_dict(state["trained"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    unseen = held_out_pictures(arguments.data)
    print(f"round trip at step {first}: {psnr(vae, unseen):.2f} dB", flush=True)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        rows = np.random.default_rng([SEED, step]).integers(len(latents), size=BATCH)
        return torch.from_numpy(latents[rows].astype(np.float32)), to_tensor(pixels[rows])

    batches, started = Prefetch(batch, first), time.time()
    for step in range(first, arguments.steps):
        for group in optimiser.param_groups:
            group["lr"] = arguments.lr * cosine(step, arguments.steps, warmup=100, floor=0.01)
        latent, target = batches(step)
        with torch.autocast("cpu", torch.bfloat16):
            decoded = vae.decode(latent).sample
        loss = reconstruction_loss(decoded.float(), target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if (step + 1) % 250 == 0 or step + 1 == arguments.steps:
            seconds = (time.time() - started) / (step + 1 - first)
            print(f"{step + 1} loss {loss.item():.4f} {seconds:.3f} s/step {psnr(vae, unseen):.2f} dB", flush=True)
            state = {"trained": trained.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
            save_state(arguments.out / "state.pt", state)
    vae.save_pretrained(arguments.out / "vae")


if __name__ == "__main__":
    main()
