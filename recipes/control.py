"""Trains the shipped `canny` control on the shipped base.

    python recipes/control.py --steps 1300 --out runs/control               (again: continues)

The objective is the paper's, SD's loss with the condition added and half of the prompts empty, weighted as in
recipes/denoiser.py: where the noise is strong, the condition decides most. Every sample's edges come
from OpenCV's Canny with random thresholds, so that the thresholds of those who use it work.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import tether
from common import SHARES, MuonAndAdamW, Prefetch, channels_last, cosine, load_state, save_state
from grounding import Grounding, Places
from tether.annotators.canny import random_canny
from tether.base import ControlNet
from tether.control import predict_noise
from tether.training.objective import diffusion_loss, drop_prompts

BATCH = 32
WEIGHTS = "diffusion_pytorch_model.safetensors"


def moved(fresh: dict[str, Tensor], start: Path, start_base: Path | None) -> dict[str, Tensor]:
    """The tensors of the control at `start`; its encoder plus what the base's has changed by since `start_base`.

    What the older base did not have, the pooled prompt, is the new base's.
    """
    old, before = load_file(start / WEIGHTS), load_file(start_base / "unet" / WEIGHTS) if start_base else {}
    return {
        name: old[name].float() + (tensor - before[name].float() if name in before else 0.0) if name in old else tensor
        for name, tensor in fresh.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1300)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--base", default="tether")
    parser.add_argument("--latents", type=Path, default=Path("data/latents.npz"))
    parser.add_argument("--start", type=Path, help="a control to go on from")
    parser.add_argument("--start-base", type=Path, help="the older base that it was trained on")
    parser.add_argument("--out", type=Path, default=Path("runs/control"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--scenes", type=float, default=SHARES["scenes"], help="share of scenes among the samples")
    parser.add_argument(
        "--grounding",
        type=float,
        default=0.0,
        help="first weight of a second loss, of grounding.py; it falls to 0 at half of the steps",
    )
    parser.add_argument("--shift", type=float, default=1.0, help="of timesteps, to where colours are decided")
    parser.add_argument("--seed", type=int, default=3, help="another for every round, or its samples come again")
    arguments = parser.parse_args()

    with np.load(arguments.latents) as pack:
        latents, pixels = pack["latents"], pack["pixels"]
        captions, counts = json.loads(str(pack["captions"])), json.loads(str(pack["counts"]))
    starts = dict(zip(counts, np.cumsum([0, *counts.values()]).tolist(), strict=False))
    others = sum(SHARES[name] for name in counts if name != "scenes")
    shares = np.array([(1 - arguments.scenes) * SHARES[name] / others for name in counts if name != "scenes"])
    shares = np.append(shares, arguments.scenes)  # the scenes stand last

    base = tether.load_base(arguments.base)
    base.unet.to(memory_format=torch.channels_last)
    torch.manual_seed(arguments.seed)
    control = ControlNet.from_unet(base.unet)
    if arguments.start:
        control.load_state_dict(moved(control.state_dict(), arguments.start, arguments.start_base))
    control.requires_grad_(True).train()
    control.kind = "canny"
    control.to(memory_format=torch.channels_last)
    optimiser = MuonAndAdamW(control, arguments.lr)
    schedule = DDIMScheduler.from_config(base.noise_schedule)
    first = 0
    if state := load_state(arguments.out / "state.pt"):
        control.load_state_dict(state["control"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]

    grounding = Grounding(control)
    places = Places(arguments.data / "scenes.npz", base.tokenizer, base.tokenizer.model_max_length)

    def batch(step: int) -> tuple[Tensor, Tensor, list[str], list[int]]:
        rng = np.random.default_rng([arguments.seed, step])
        names = rng.choice(list(counts), BATCH, p=shares)
        rows = [starts[str(name)] + int(rng.integers(counts[str(name)])) for name in names]
        words = [captions[row][int(rng.integers(len(captions[row])))] for row in rows]
        edges = np.stack([random_canny(pixels[row], rng) for row in rows])[:, None] / 255
        return channels_last(latents[rows]), channels_last(edges.repeat(3, axis=1)), words, rows

    batches, started, losses = Prefetch(batch, first), time.time(), []
    for step in range(first, arguments.steps):
        optimiser.set_lr(arguments.lr * cosine(step, arguments.steps, warmup=100, floor=0.05))
        clean, conditions, words, rows = batches(step)
        generator = torch.Generator().manual_seed(arguments.seed * 10**6 + step)
        words = drop_prompts(words, 0.5, generator)
        with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):  # as in recipes/denoiser.py
            states = base.encode_prompts(words).states
            hint = control.encode(conditions)

            def predict(noisy: Tensor, t: Tensor) -> Tensor:
                residuals = control(noisy, t, states, hint)  # noqa: B023
                return predict_noise(base.unet, noisy, t, states, residuals)  # noqa: B023

            loss = diffusion_loss(
                predict,
                clean,
                schedule,
                generator=generator,
                velocity_cap=50.0,
                stratified=True,
                shift=arguments.shift,
            )
        grounded = grounding.loss(*places.targets([row - starts["scenes"] for row in rows], words))
        weight = arguments.grounding * max(0.0, 1 - 2 * step / arguments.steps)
        (loss + weight * grounded).backward()
        torch.nn.utils.clip_grad_norm_(control.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append((loss.item(), grounded.item()))
        if (step + 1) % 50 == 0:
            seconds = (time.time() - started) / (step + 1 - first)
            drawn, looked = np.mean(losses[-50:], axis=0)
            print(f"{step + 1} loss {drawn:.4f} grounding {looked:.4f} {seconds:.3f} s/step", flush=True)
        if (step + 1) % 250 == 0 or step + 1 == arguments.steps:
            state = {"control": control.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
            save_state(arguments.out / "state.pt", state)
            control.save(arguments.out / "control")


if __name__ == "__main__":
    main()
