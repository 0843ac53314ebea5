"""Whole pictures with a control at Stable Diffusion 1.5's size, beside stable-diffusion.cpp and diffusers in one run.

    pip install --no-deps cyllama==0.2.18                stable-diffusion.cpp, for Python; needs no other package
    python benchmarks/pictures.py --out out/pictures.json
    python benchmarks/pictures.py --pixels 512 --rounds 3
    python benchmarks/pictures.py --tiny                 tests this script, without stable-diffusion.cpp

Weights are random, the same for all, and written once to a temporary folder: 4 GB in float32 for Tether and diffusers,
1.4 GB in float16, which stable-diffusion.cpp computes with. A picture is everything after loading: prompt, condition,
20 steps of Euler's method with both sides of guidance, and decoding. Each method has a process of its own, with all
cores; rounds go through the methods in turn. Medians. Nothing here downloads anything.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from inference import machine, make_networks

PEER = "stable-diffusion.cpp"
METHODS = (
    PEER,
    "diffusers-float32",
    "diffusers-bfloat16",
    "tether-eager-bfloat16",
    "tether-eager-bfloat16-fast",
    "tether-openvino-bfloat16",
    "tether-openvino-bfloat16-fast",
)
PROMPT = "a red apple on a table"


def write_models(folder: Path, tiny: bool) -> None:
    """A base and a control: folders of diffusers, and files of Stable Diffusion's own layout."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    import tether
    from tether.conversion import convert

    torch.manual_seed(0)
    unet, control = make_networks(tiny)
    widths = (32, 32, 32, 32) if tiny else (128, 256, 512, 512)
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(block_out_channels=widths, latent_channels=4, layers_per_block=1 if tiny else 2, **kinds)
    text = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12))
    shipped = Path(tether.__file__).parent / "weights" / "base"
    base = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=CLIPTokenizer.from_pretrained(shipped / "tokenizer"),
        unet=unet,
        scheduler=DDIMScheduler.from_pretrained(shipped / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    base.save_pretrained(folder / "base")
    control.save_pretrained(folder / "control")
    if not tiny:
        half: dict[str, Any] = {"to": "original", "dtype": torch.float16}
        convert(folder / "base", folder / "base.safetensors", **half)
        convert(folder / "control", folder / "control.safetensors", kind="canny", **half)


def lines(pixels: int) -> Any:
    """A condition: white squares on black."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (pixels, pixels))
    for inset in range(pixels // 8, pixels // 2, pixels // 8):
        ImageDraw.Draw(image).rectangle((inset, inset, pixels - inset, pixels - inset), outline="white", width=2)
    return image


def make_call(method: str, folder: Path, pixels: int, steps: int) -> Callable[[], Any]:
    """A function without arguments that draws one picture."""
    if method == PEER:
        return _of_sd_cpp(folder, pixels, steps)
    maker, *words = method.split("-")
    return (_of_tether if maker == "tether" else _of_diffusers)(folder, pixels, steps, *words)


def _of_sd_cpp(folder: Path, pixels: int, steps: int) -> Callable[[], Any]:
    import os

    from cyllama.sd import stable_diffusion  # pyright: ignore[reportMissingImports]

    given = stable_diffusion.SDContextParams(model_path=str(folder / "base.safetensors"))
    given.control_net_path, given.n_threads = str(folder / "control.safetensors"), os.cpu_count() or 1
    given.free_params_immediately, given.vae_decode_only = False, True
    context = stable_diffusion.SDContext(given)
    lines(pixels).save(folder / "lines.png")
    image = stable_diffusion.SDImage.load(str(folder / "lines.png"))
    return lambda: context.generate(
        PROMPT,
        width=pixels,
        height=pixels,
        seed=1,
        sample_steps=steps,
        cfg_scale=5.0,
        sample_method=stable_diffusion.SampleMethod.EULER,
        control_image=image,
        control_strength=1.0,
    )


def _of_diffusers(folder: Path, pixels: int, steps: int, dtype: str) -> Callable[[], Any]:
    import torch
    from diffusers import ControlNetModel, EulerDiscreteScheduler, StableDiffusionControlNetPipeline

    kind = getattr(torch, dtype)
    pipeline: Any = StableDiffusionControlNetPipeline.from_pretrained(
        folder / "base",
        controlnet=ControlNetModel.from_pretrained(folder / "control", torch_dtype=kind),
        torch_dtype=kind,
    )
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    if kind == torch.bfloat16:
        for one in (pipeline.unet, pipeline.controlnet, pipeline.vae):
            one.to(memory_format=torch.channels_last)
    given = {"height": pixels, "width": pixels, "num_inference_steps": steps, "guidance_scale": 5.0}
    return lambda: pipeline(PROMPT, lines(pixels), generator=torch.Generator().manual_seed(1), **given).images


def _of_tether(folder: Path, pixels: int, steps: int, engine: str, dtype: str, *less: str) -> Callable[[], Any]:
    import torch

    import tether

    kind = getattr(torch, dtype)
    base = tether.load_base(folder / "base", dtype=kind, light=True)
    control = tether.ControlNet.load(folder / "control", kind="canny", dtype=kind)
    pipeline = tether.Pipeline(base, [control], engine=engine, notify=lambda line: print(line, file=sys.stderr))
    given: dict[str, Any] = {"steps": steps, "size": (pixels, pixels), "scheduler": "euler", "fast": "fast" in less}
    return lambda: pipeline(PROMPT, [lines(pixels)], seed=1, guidance_scale=5.0, **given)


def serve(method: str, folder: Path, pixels: int, steps: int) -> None:
    """Answers each line on standard input with the seconds of one picture."""
    call = make_call(method, folder, pixels, steps)
    call()
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        call()
        print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)


class Worker:
    """A method's process."""

    def __init__(self, words: list[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.times: list[float] = []
        self._until("ready")

    def _until(self, begin: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(begin):
                return line
        raise SystemExit("a method failed: its message is above")

    def draw(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.times.append(json.loads(self._until('{"seconds"'))["seconds"])

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description="Whole pictures at Stable Diffusion 1.5's size, beside their peers.")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, to test this script")
    parser.add_argument("--serve", nargs=4, metavar=("METHOD", "FOLDER", "PIXELS", "STEPS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        method, folder, pixels, steps = options.serve
        serve(method, Path(folder), int(pixels), int(steps))
        return
    needed = {PEER: "cyllama", **{method: "openvino" for method in METHODS if "openvino" in method}}
    methods = [one for one in options.methods if one not in needed or find_spec(needed[one]) is not None]
    if options.tiny and PEER in methods:
        methods.remove(PEER)
    for method in set(options.methods) - set(methods):
        print(f"{method} is left out: {needed[method]} is not installed, or cannot be tiny", file=sys.stderr)
    results = []
    with tempfile.TemporaryDirectory() as name:
        write_models(Path(name), options.tiny)
        workers = {one: Worker([one, name, str(options.pixels), str(options.steps)]) for one in methods}
        for _ in range(options.rounds):
            for worker in workers.values():
                worker.draw()
        for method, worker in workers.items():
            worker.end()
            results.append({"method": method, "pixels": options.pixels, "seconds": statistics.median(worker.times)})
    for one in results:
        ratio = results[0]["seconds"] / one["seconds"]
        print(f"{one['method']:30} {one['seconds']:7.2f} s  {ratio:5.2f}x {results[0]['method']}")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"machine": machine(), "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
