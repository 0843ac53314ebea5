"""Trains the shipped `canny` control on the shipped base.

    python recipes/control.py --steps 1300 --out runs/control               (again: continues)

The objective is the paper's, SD's loss with the condition added and half of the prompts empty, weighted as in
recipes/denoiser.py: where the noise is strong, the condition decides most. Edges come from OpenCV's Canny with random
thresholds, several maps of each picture, so that the thresholds of those who use it work.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file
from torch import Tensor

import tether
from common import DATA, SHARES
from grounding import Grounding
from rounds import Round, add_options, attention
from samples import Samples
from tether.base import ControlNet
from tether.control import predict_noise
from tether.training.objective import diffusion_loss

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
    add_options(parser, out="runs/control", steps=1300, batch=32, lr=5e-4, seed=3)
    parser.add_argument("--base", default="tether")
    parser.add_argument("--latents", type=Path, default=DATA / "latents-wide.npz")
    parser.add_argument("--start", type=Path, help="a control to go on from")
    parser.add_argument("--start-base", type=Path, help="the older base that it was trained on")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--scenes", type=float, default=SHARES["scenes"], help="share of scenes among the samples")
    parser.add_argument(
        "--grounding",
        type=float,
        default=0.0,
        help="first weight of a second loss, of grounding.py; it falls to 0 at half of the steps",
    )
    parser.add_argument("--shift", type=float, default=1.0, help="of timesteps, to where colours are decided")
    parser.add_argument("--compile", action="store_true", help="worth its minute on a GPU")
    arguments = parser.parse_args()
    device = arguments.device
    torch.backends.cudnn.benchmark = True
    others = sum(share for group, share in SHARES.items() if group != "scenes")
    shares = {group: (1 - arguments.scenes) * share / others for group, share in SHARES.items()}
    shares["scenes"] = arguments.scenes

    base = tether.load_base(arguments.base)
    torch.manual_seed(arguments.seed)
    control = ControlNet.from_unet(base.unet)
    if arguments.start:
        control.load_state_dict(moved(control.state_dict(), arguments.start, arguments.start_base))
    control.requires_grad_(True).train()
    control.kind = "canny"
    control.to(device).to(memory_format=torch.channels_last)
    base.to(device)
    base.unet.to(memory_format=torch.channels_last)
    schedule = DDIMScheduler.from_config(base.noise_schedule)
    run = Round(control, arguments, lambda average: average.save(arguments.out / "control"), log_every=50)
    grounding, length = Grounding(control), base.tokenizer.model_max_length
    scenes = arguments.data / "scenes.npz"
    samples = Samples(arguments.latents, scenes, base.tokenizer, shares, length=length, device=device, edges=True)
    generator, encode = torch.Generator(device), control.encode

    def predict(noisy: Tensor, t: Tensor, states: Tensor, hint: Tensor) -> Tensor:
        return predict_noise(base.unet, noisy, t, states, control(noisy, t, states, hint))

    if arguments.compile:
        predict, encode = torch.compile(predict), torch.compile(encode)

    for step in run:
        generator.manual_seed(arguments.seed * 10**6 + step)
        batch = samples.draw(arguments.batch, 0.5, generator)
        with attention(device), torch.autocast(device.type, torch.bfloat16):
            with torch.no_grad():
                states = base.text_encoder(batch.tokens).last_hidden_state
            hint = encode(batch.edges)

            loss = diffusion_loss(
                lambda noisy, t: predict(noisy, t, states, hint),  # noqa: B023
                batch.latents,
                schedule,
                generator=generator,
                velocity_cap=50.0,
                stratified=True,
                shift=arguments.shift,
            )
        grounded = grounding.loss(batch.words, batch.masks)
        weight = arguments.grounding * max(0.0, 1 - 2 * step / run.steps)
        run.learn(loss + weight * grounded, loss=loss, grounding=grounded)


if __name__ == "__main__":
    main()
