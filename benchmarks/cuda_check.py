"""Whether a GPU draws and trains what the CPU does: pictures, noise, losses, a short training with a resume.

    python benchmarks/cuda_check.py                  needs CUDA; well under a minute on one GPU
    python benchmarks/cuda_check.py --device cpu     tries the script where there is none

Shipped base and control. Pictures of the device are compared with the CPU's in float32 by peak signal-to-noise ratio:

    PSNR = 10 log10(255² / mean squared error), in decibels

A line a check, with what was found and what was asked for; the exit status is 1 if one failed. Sampling is a dynamic
system, so that rounding grows over the steps: the limits are set by what float16 and bfloat16 cost on a CPU.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

import tether
from tether.base import Base
from tether.control import Conditioning, Injection
from tether.images.tensors import to_pixels
from tether.sampling.start import initial_noise
from tether.training.batch import Batch, sample_generators
from tether.training.config import TrainConfig
from tether.training.performance.precision import autocast
from tether.training.trainer import Trainer, make_objective

EXAMPLES = Path(tether.__file__).parent / "examples"
PROMPTS = {"house.webp": "a house, 3d emoji", "lock.webp": "a lock, 3d emoji", "mouse.webp": "a mouse, 3d emoji"}
LEAST = {"float32": 45.0, "float16": 40.0, "bfloat16": 28.0}
"""Decibels. In float32 cuDNN's convolutions are TF32 unless told otherwise, which has the mantissa of float16."""
LOSS = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 3e-2}
"""Largest relative difference of a loss."""
failures: list[str] = []


def report(name: str, good: bool, words: str) -> None:
    print(f"{'ok  ' if good else 'FAIL'} {name:34} {words}", flush=True)
    if not good:
        failures.append(name)


def attempt(name: str, check: Callable[[], None]) -> None:
    """Runs a check; an error is a failure, and the others run on."""
    started = time.perf_counter()
    try:
        check()
    except Exception as error:  # whatever a device raises is what we want to see
        traceback.print_exc()
        report(name, False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    print(f"     {name}: {time.perf_counter() - started:.1f} s", flush=True)


def psnr(a: Image.Image, b: Image.Image) -> float:
    error = np.square(np.asarray(a, np.float64) - np.asarray(b, np.float64)).mean()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


# Pictures.


def photo(name: str, size: int) -> Image.Image:
    return Image.open(EXAMPLES / name).convert("RGB").resize((size, size))


def requests(size: int) -> dict[str, dict[str, Any]]:
    """Calls of a pipeline by name; the controls are canny twice."""
    edges = [tether.annotate("canny", photo(name, size)) for name in ("house.webp", "lock.webp")]
    mask = Image.new("L", (size, size))
    ImageDraw.Draw(mask).rectangle((0, 0, size // 2, size), fill=255)
    text = {"prompt": "a house, 3d emoji", "conditions": edges, "seed": 7, "steps": 10}
    off = Injection(strength=0.0)
    return {
        "one control": text | {"injections": [Injection(), off]},
        "two, windows, weighting, mask": text
        | {
            "injections": [
                Injection(strength=0.9, weighting="cfg-rw", window=(0.0, 0.8)),
                Injection(strength=0.5, window=(0.2, 1.0), mask=mask),
            ]
        },
        "image to image": text
        | {"injections": [Injection(), off], "init": photo("lock.webp", size), "denoising_strength": 0.6},
        "inpainting": text | {"injections": [Injection(), off], "init": photo("house.webp", size), "mask": mask},
        "euler-a, batch of 3": text | {"injections": [Injection(), off], "scheduler": "euler-a", "count": 3},
    }


def draw(device: str, dtype: torch.dtype, only: str = "") -> dict[str, list[Image.Image]]:
    """The pictures of each request, or of those whose name begins so."""
    base = tether.load_base(dtype=dtype, device=device)
    control = tether.ControlNet.load("canny")
    pipe = tether.Pipeline(base, [control, control], notify=lambda line: None)
    calls = {name: call for name, call in requests(base.sample_size).items() if name.startswith(only)}
    return {name: pipe(**call) for name, call in calls.items()}  # type: ignore[misc]


def check_pictures(device: str, dtype: str, exact: dict[str, list[Image.Image]]) -> None:
    found = draw(device, getattr(torch, dtype))
    for name, images in found.items():
        worst = min(psnr(a, b) for a, b in zip(images, exact[name], strict=True))
        report(f"{dtype}, {name}", worst >= LEAST[dtype], f"{worst:.1f} dB, at least {LEAST[dtype]:.0f}")
    again = draw(device, getattr(torch, dtype), "two")
    same = all(a.tobytes() == b.tobytes() for name in again for a, b in zip(found[name], again[name], strict=True))
    report(f"{dtype}, drawn twice", same, "the same bytes" if same else "bytes differ")


def check_noise(device: str) -> None:
    base = tether.load_base(device=device)
    found = initial_noise([torch.Generator().manual_seed(k) for k in (7, 8)], (128, 128), base)
    there = initial_noise([torch.Generator().manual_seed(k) for k in (7, 8)], (128, 128), tether.load_base())
    report("noise of a seed", torch.equal(found.cpu(), there), f"on {found.device}, the CPU's to the bit")


# Training.


def samples(base: Base) -> Callable[[range], Batch]:
    """The example images, their edges and prompts, over and over."""
    latents, maps, prompts = [], [], []
    for name, prompt in PROMPTS.items():
        image = photo(name, base.sample_size)
        latents.append(base.encode_images(to_pixels(image)).float().cpu())
        edges = np.asarray(tether.annotate("canny", image).convert("RGB"))
        maps.append(torch.from_numpy(edges.copy()).permute(2, 0, 1).float().div(255)[None])
        prompts.append(prompt)
    with torch.no_grad():
        text = base.encode_prompts(prompts).to(torch.device("cpu"))

    def batch(numbers: range) -> Batch:
        rows = [number % len(prompts) for number in numbers]
        return Batch(
            torch.cat([latents[row] for row in rows]),
            torch.cat([maps[row] for row in rows]),
            Conditioning.joined([text.row(row) for row in rows]),
            [prompts[row] for row in rows],
        )

    return batch


def settings(out: Path, device: str, precision: str, **more: Any) -> TrainConfig:
    values = {
        "out": out,
        "steps": 5,
        "batch_size": 4,
        "learning_rate": 1e-4,
        "checkpoint_every": 3,
        "validation_every": 0,
        "precision": precision,
        "device": "cpu" if device == "cpu" else "auto",
        "trackers": (),
    }
    return TrainConfig.of(values | more)


def fresh(device: str = "cpu") -> tuple[Base, tether.ControlNet]:
    base = tether.load_base(device=device)
    torch.manual_seed(0)
    return base, tether.ControlNet.from_unet(base.unet)


def losses_of_batch(device: str, dtype: torch.dtype | None, batch: Batch) -> torch.Tensor:
    """Of the shipped control: a fresh one has no signal yet."""
    base = tether.load_base(device=device)
    control = tether.ControlNet.load("canny")
    objective = make_objective(base, control, settings(Path("unused"), device, "no"))
    with autocast(torch.device(device), dtype), torch.no_grad():
        losses, _ = objective(batch.to(torch.device(device)), sample_generators(0, range(4)))
    return losses.float().cpu()


def check_losses(device: str) -> None:
    batch = samples(tether.load_base())(range(4))
    exact = losses_of_batch("cpu", None, batch)
    for name, limit in LOSS.items():
        found = losses_of_batch(device, None if name == "float32" else getattr(torch, name), batch)
        off = ((found - exact).abs() / exact).max().item()
        report(f"{name}, loss of a batch", off <= limit, f"off by {off:.1e} of it, at most {limit:.0e}")


def train(out: Path, device: str, precision: str, **more: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The loss of each step of this sitting, and the trained weights."""
    base, control = fresh(device)
    losses: list[float] = []
    config = settings(out, device, precision, **more)
    trainer = Trainer(base, control, samples(base), config, on_progress=lambda done: losses.append(done.loss))
    trainer.fit()
    with trainer.result() as trained:
        weights = {name: tensor.detach().float().cpu().clone() for name, tensor in trained.state_dict().items()}
    trainer.end()
    return losses, weights


def check_training(device: str, precision: str, **more: Any) -> None:
    name = f"training in {precision}" + "".join(f", {key} {value}" for key, value in more.items())
    before = fresh()[1].state_dict()
    with tempfile.TemporaryDirectory() as folder:
        whole, weights = train(Path(folder) / "whole", device, precision, **more)
        first, _ = train(Path(folder) / "parts", device, precision, steps=3, **more)
        rest, resumed = train(Path(folder) / "parts", device, precision, steps=5, **more)
    finite = all(math.isfinite(loss) for loss in whole) and len(whole) == 5
    finite = finite and all(tensor.isfinite().all().item() for tensor in weights.values())
    moved = sum(not torch.equal(weights[key], before[key].float()) for key in weights)
    report(name, finite and moved > len(weights) // 4, f"losses {[round(loss, 4) for loss in whole]}, {moved} moved")
    apart = max((weights[key] - resumed[key]).abs().max().item() for key in weights)
    off = max(abs(a - b) / a for a, b in zip([*first, *rest], whole, strict=True))
    words = f"losses off by {off:.1e}, weights by {apart:.1e} (learning rate 1e-4)"
    report(f"{name}, resumed at 3", len(rest) == 2 and off < 1e-2 and apart < 1e-3, words)


def main() -> None:
    parser = argparse.ArgumentParser(description="Whether a GPU draws and trains what the CPU does.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", choices=["pictures", "losses", "training"])
    options = parser.parse_args()
    device, only = options.device, options.only or ["pictures", "losses", "training"]
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("cuda_check: this machine has no CUDA device: --device cpu tries the script")
    card = torch.cuda.get_device_name(device) if device.startswith("cuda") else "the CPU"
    print(f"torch {torch.__version__} on {card}", flush=True)
    if "pictures" in only:
        attempt("noise", lambda: check_noise(device))
        exact: dict[str, list[Image.Image]] = {}
        attempt("pictures of the CPU", lambda: exact.update(draw("cpu", torch.float32)))
        for dtype in LEAST:
            attempt(f"pictures in {dtype}", lambda dtype=dtype: check_pictures(device, dtype, exact))
    if "losses" in only:
        attempt("losses", lambda: check_losses(device))
    if "training" in only:
        for precision in ("no", "bf16", "fp16"):
            attempt(f"training in {precision}", lambda precision=precision: check_training(device, precision))
        attempt("training, clipped", lambda: check_training(device, "fp16", max_grad_norm=1.0))
    print(f"{len(failures)} failed: {', '.join(failures)}" if failures else "all as on the CPU", flush=True)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
