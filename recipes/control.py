"""Trains the shipped `canny` control on the shipped base.

    python recipes/control.py --steps 1300 --out runs/control               (again: continues)

The objective is the paper's, SD's loss with the condition added and half of the prompts empty, weighted as in
recipes/denoiser.py: where the noise is strong, the condition decides most. Every sample's edges come
from OpenCV's Canny with random thresholds, so that the thresholds of those who use it work. A moving average of the
weights is what is kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file
from torch import Tensor

import tether
from common import SHARES, MuonAndAdamW, Pace, attention, cosine, load_state, moving_average, save_state
from grounding import Grounding
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
    parser.add_argument("--steps", type=int, default=1300)
    parser.add_argument("--minutes", type=float, help="in place of --steps")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--base", default="tether")
    parser.add_argument("--latents", type=Path, default=Path("data/latents-wide.npz"))
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
    parser.add_argument("--compile", action="store_true", help="worth its minute on a GPU")
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--seed", type=int, default=3, help="another for every round, or its samples come again")
    arguments = parser.parse_args()

    device = arguments.device
    torch.backends.cudnn.benchmark = True
    others = sum(share for group, share in SHARES.items() if group != "scenes")
    shares = {group: (1 - arguments.scenes) * share / others for group, share in SHARES.items()}
    shares["scenes"] = arguments.scenes

    base = tether.load_base(arguments.base, device=device)
    base.unet.to(memory_format=torch.channels_last)
    torch.manual_seed(arguments.seed)
    control = ControlNet.from_unet(base.unet)
    if arguments.start:
        control.load_state_dict(moved(control.state_dict(), arguments.start, arguments.start_base))
    control.requires_grad_(True).train()
    control.kind = "canny"
    control.to(device).to(memory_format=torch.channels_last)
    average = moving_average(control)
    optimiser = MuonAndAdamW(control, arguments.lr)
    schedule = DDIMScheduler.from_config(base.noise_schedule)
    first = 0
    if state := load_state(arguments.out / "state.pt"):
        control.load_state_dict(state["control"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]

    grounding, length = Grounding(control), base.tokenizer.model_max_length
    samples = Samples(
        arguments.latents, arguments.data / "scenes.npz", base.tokenizer, shares, length=length, device=device
    )
    generator, encode = torch.Generator(device), control.encode

    def predict(noisy: Tensor, t: Tensor, states: Tensor, hint: Tensor) -> Tensor:
        return predict_noise(base.unet, noisy, t, states, control(noisy, t, states, hint))

    if arguments.compile:
        predict, encode = torch.compile(predict), torch.compile(encode)

    logged: dict[str, list[Tensor]] = {"loss": [], "grounding": []}
    for step in (pace := Pace(first, arguments.steps, arguments.minutes, device)):
        optimiser.set_lr(arguments.lr * cosine(step, pace.steps, warmup=100, floor=0.02))
        generator.manual_seed(arguments.seed * 10**6 + step)
        batch = samples.draw(arguments.batch, 0.5, generator, edges=True)
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
        weight = arguments.grounding * max(0.0, 1 - 2 * step / pace.steps)
        (loss + weight * grounded).backward()
        torch.nn.utils.clip_grad_norm_(control.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        average.update_parameters(control)
        logged["loss"].append(loss.detach())
        logged["grounding"].append(grounded.detach())
        pace.report(step, 50, logged)
        if (step + 1) % arguments.save_every == 0 or step + 1 == pace.steps:
            state = {
                "control": control.state_dict(),
                "average": average.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step + 1,
            }
            save_state(arguments.out / "state.pt", state)
            average.module.save(arguments.out / "control")  # type: ignore[operator]


if __name__ == "__main__":
    main()
