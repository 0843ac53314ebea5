"""Drawing and training on one GPU, beside diffusers, in pieces and within a time limit.

    python benchmarks/gpu.py --minutes 9 --out out/gpu.json
    python benchmarks/gpu.py --pieces sd15 train
    python benchmarks/gpu.py --device cpu --tiny                  tests this script where there is no GPU

Random weights at the true sizes, made on the device. Pieces:

sd15, sdxl   a controlled step with both sides of guidance, 512 px and 1024 px; one and three controls; one and eight
             images. Three controls are one network with three conditions: the work of three.
train        a training step of Stable Diffusion 1.5's size at 512 px, bf16: Tether's and the reference loop, each in
             a process of its own (`benchmarks/training_steps.py`)

Ways to draw, all in bfloat16:

diffusers            channels last
diffusers-compile    channels last, `torch.compile` of both networks; compiled anew for each shape
eager, compile       Tether's engines

Rounds go through the ways in turn; reported are the median, how much faster than `diffusers` it was in the same rounds,
the relative error of the prediction to diffusers in float32 (TF32 off), and what the first call took. What the time
limit leaves out is said. A line is printed as soon as it is measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import torch
import training_steps
from torch import Tensor

PIECES = ("sd15", "sdxl", "train")
SIZES = {"sd15": 512, "sdxl": 1024}
FAMILIES = {"sd15": "sd1", "sdxl": "sdxl"}
WAYS = ("diffusers", "eager", "compile", "diffusers-compile")
TINY = {"block_out_channels": (32, 32, 64), "layers_per_block": 1}
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
Call = Callable[[], Tensor]


class Clock:
    """The time that is left."""

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes

    def has(self, seconds: float) -> bool:
        return time.monotonic() + seconds < self.end


def make_networks(piece: str, device: str, tiny: bool) -> tuple[Any, Any]:
    """diffusers' U-Net and ControlNet in float32 on the device."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    from tether.formats.families import family_settings

    settings = dict(family_settings(FAMILIES[piece])["unet"])
    if piece == "sd15":
        settings["cross_attention_dim"] = 768
    if tiny:
        settings |= TINY | {"cross_attention_dim": 64}
        count = len(settings.get("down_block_types", ())) or 4
        settings["block_out_channels"] = (32, 32, 64, 64)[:count]
        if "transformer_layers_per_block" in settings:
            settings["transformer_layers_per_block"] = 1
        settings["attention_head_dim"] = 8
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(**settings).eval().requires_grad_(False)
        control = ControlNetModel.from_unet(unet).eval().requires_grad_(False)
        zeros: list[Any] = [*control.controlnet_down_blocks, control.controlnet_mid_block]
        for zero in zeros:
            torch.nn.init.normal_(zero.weight, std=0.02)
        torch.nn.init.normal_(control.controlnet_cond_embedding.conv_out.weight, std=0.02)
    return unet, control


def make_inputs(unet: Any, pixels: int, controls: int, batch: int, device: str) -> dict[str, Any]:
    """Of both sides of guidance: latents `(2B, 4, h, w)`, ...; a condition `(2B, 3, H, W)` a control."""
    random = torch.Generator().manual_seed(1)
    count, side, config = 2 * batch, pixels // 8, unet.config
    inputs: dict[str, Any] = {
        "latents": torch.randn(count, 4, side, side, generator=random),
        "tokens": torch.randn(count, 77, config["cross_attention_dim"], generator=random),
        "conditions": [torch.rand(count, 3, pixels, pixels, generator=random).round() for _ in range(controls)],
        "extras": {},
    }
    if config["addition_embed_type"] == "text_time":
        width = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        sizes = torch.tensor([[pixels, pixels, 0, 0, pixels, pixels]]).float().repeat(count, 1)
        inputs["extras"] = {"text_embeds": torch.randn(count, width, generator=random), "time_ids": sizes}
    return to(inputs, device)


def to(given: Any, where: Any) -> Any:
    """Tensors in dicts and lists on a device, or in a dtype."""
    if isinstance(given, dict):
        return {name: to(one, where) for name, one in given.items()}
    return [to(one, where) for one in given] if isinstance(given, list) else given.to(where)


def diffusers_call(unet: Any, control: Any, inputs: dict[str, Any]) -> Call:
    def call() -> Tensor:
        latents, extras = inputs["latents"], inputs["extras"] or None
        shared = {"encoder_hidden_states": inputs["tokens"], "added_cond_kwargs": extras, "return_dict": False}
        found = [control(latents, 481, controlnet_cond=one, **shared) for one in inputs["conditions"]]
        down = [sum(each) for each in zip(*(one[0] for one in found), strict=True)]
        middle = sum(one[1] for one in found)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return unet(latents, 481, **residuals, **shared)[0]

    return call


def tether_call(unet: Any, control: Any, inputs: dict[str, Any], engine: str) -> Call:
    from tether.base import UNetDenoiser, noise_process
    from tether.control import Conditioning
    from tether.sampling.engines import engine as open_engine

    count = len(inputs["conditions"])
    opened = open_engine(engine)
    denoiser, steered = opened.prepare(UNetDenoiser(unet, noise_process(NOISE)), [control] * count)
    hints = [control.encode(one) for one in inputs["conditions"]]
    extras = dict(inputs["extras"])
    text = Conditioning(inputs["tokens"], extras.pop("text_embeds", None), extras)
    t = torch.tensor(481, device=inputs["latents"].device)

    def call() -> Tensor:
        signals = [one(inputs["latents"], t, text, hint) for one, hint in zip(steered, hints, strict=True)]
        found = denoiser.predict(inputs["latents"], t, text, reduce(add, signals))
        for line in opened.taken_notes():
            print(f"     {engine}: {line}", flush=True)
        return found

    return call


def tether_control(control: Any, device: str) -> Any:
    """Tether's ControlNet with the weights of diffusers'."""
    from tether.control import ControlNet

    with torch.device(device):
        ours = ControlNet.from_config(dict(control.config))
    ours.load_state_dict(control.state_dict())
    return ours.to(torch.device(device), torch.bfloat16).eval().requires_grad_(False)


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def timed(call: Call, device: str) -> tuple[float, Tensor]:
    synchronize(device)
    started = time.perf_counter()
    found = call()
    synchronize(device)
    return time.perf_counter() - started, found


class Networks:
    """What all cells of a piece draw with."""

    def __init__(self, piece: str, device: str, tiny: bool) -> None:
        from copy import deepcopy

        self.exact = make_networks(piece, device, tiny)
        pair = [deepcopy(one).to(torch.bfloat16) for one in self.exact]
        self.ours = tether_control(pair[1], device)
        self.plain_unet = deepcopy(pair[0])
        self.theirs = [one.to(memory_format=torch.channels_last) for one in pair]
        self.compiled: list[Any] = [torch.compile(one) for one in self.theirs]

    def call(self, way: str, inputs: dict[str, Any]) -> Call:
        if way == "diffusers":
            return diffusers_call(self.theirs[0], self.theirs[1], inputs)
        if way == "diffusers-compile":
            return diffusers_call(self.compiled[0], self.compiled[1], inputs)
        return tether_call(self.plain_unet, self.ours, inputs, way)


def measure(
    piece: str, networks: Networks, controls: int, batch: int, options: argparse.Namespace, clock: Clock
) -> list[dict[str, Any]]:
    """One cell, way by way and then round by round."""
    device, pixels = options.device, 64 if options.tiny else SIZES[piece]
    full = make_inputs(networks.exact[0], pixels, controls, batch, device)
    exact = diffusers_call(*networks.exact, full)()
    half = {name: to(one, torch.bfloat16) for name, one in full.items()}
    calls: dict[str, Call] = {}
    results: dict[str, dict[str, Any]] = {}
    for way in options.ways:
        cell = {"piece": piece, "controls": controls, "batch": batch, "way": way}
        if not clock.has(120 if "compile" in way and not options.tiny else 10):
            print(f"left out for time: {cell}", flush=True)
            continue
        try:
            calls[way] = networks.call(way, half)
            first, found = timed(calls[way], device)
        except Exception as error:  # out of memory, a compiler that fails: the other ways run on
            print(f"failed: {cell}: {type(error).__name__}: {str(error)[:200]}", flush=True)
            calls.pop(way, None)
            continue
        off = ((found.float() - exact).norm() / exact.norm()).item()
        results[way] = cell | {"first": first, "error": off}
    times: dict[str, list[float]] = {way: [] for way in calls}
    for _ in range(options.rounds):
        for way, call in calls.items():
            times[way].append(timed(call, device)[0])
    for way, seen in times.items():
        peers = times.get("diffusers", seen)
        ratio = statistics.median(peer / one for peer, one in zip(peers, seen, strict=True))
        results[way] |= {"seconds": statistics.median(seen), "faster": ratio}
        one = results[way]
        print(
            f"{piece:5} {controls} control(s) batch {batch} {way:18} {1e3 * one['seconds']:9.2f} ms "
            f"{one['faster']:5.2f}x  error {one['error']:.1e}  first {one['first']:6.1f} s",
            flush=True,
        )
    return list(results.values())


def measure_training(options: argparse.Namespace, clock: Clock) -> list[dict[str, Any]]:
    results = []
    for batch in (1, 4):
        for variant in ("ours", "reference"):
            if not clock.has(60 if not options.tiny else 10):
                print(f"left out for time: train {variant} batch {batch}", flush=True)
                continue
            pixels = 64 if options.tiny else 512
            setting = training_steps.Setting(variant, pixels, batch, "bf16", 5, options.tiny, device=options.device)
            words = [sys.executable, training_steps.__file__, json.dumps(asdict(setting))]
            done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=240)
            if done.returncode:
                print(f"failed: train {variant} batch {batch}: {done.stderr.strip().splitlines()[-1:]}", flush=True)
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            seconds = statistics.median(found["seconds"])
            memory = found["device memory"] / 2**30
            print(f"train batch {batch} {variant:10} {1e3 * seconds:9.1f} ms  {memory:5.1f} GiB", flush=True)
            results.append({"piece": "train", "batch": batch, "way": variant, "seconds": seconds, "memory": memory})
    return results


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description="Drawing and training on one GPU, beside diffusers.")
    parser.add_argument("--pieces", nargs="+", choices=PIECES, default=list(PIECES))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--controls", nargs="+", type=int, default=[1, 3])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--minutes", type=float, default=9.0, help="nothing is begun that would take longer")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, to test this script")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("gpu: this machine has no CUDA device: --device cpu --tiny tests the script")
    torch.backends.cudnn.allow_tf32 = False  # of the exact predictions; bfloat16 does not use it
    card = torch.cuda.get_device_name() if options.device.startswith("cuda") else "CPU"
    print(f"{card}, torch {torch.__version__}", flush=True)
    clock, results = Clock(options.minutes), []
    for piece in options.pieces:
        if piece == "train":
            results += measure_training(options, clock)
            continue
        networks = Networks(piece, options.device, options.tiny)
        for batch in options.batch:
            for controls in options.controls:
                results += measure(piece, networks, controls, batch, options, clock)
        del networks
        torch._dynamo.reset()
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        content = {"card": card, "torch": torch.__version__, "results": results}
        options.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
