"""Memory and time to load a base and a control of Stable Diffusion 1.5's size: Tether's, beside diffusers'.

    python benchmarks/loading.py --out out/loading.json

Random weights, written once in bfloat16 as diffusers folders and as single files in the released layout. Every way of
loading runs in a process of its own, and then reads each weight once, so that mapped files are counted as well. Memory
is the most that the process ever had resident, less what it had after its imports, divided by the size of the weights.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from instruments import resident
from training import make_base

WAYS = {
    "tether, released files": ("tether", "base.safetensors", "control.safetensors"),
    "tether, diffusers folders": ("tether", "base", "control"),
    "diffusers, folders": ("diffusers", "base", "control"),
}


def write_weights(folder: Path) -> None:
    """Writes base and control in both layouts."""
    import torch
    from diffusers import StableDiffusionPipeline

    from tether.base import ControlNet
    from tether.conversion import convert

    base = make_base(tiny=False).to(dtype=torch.bfloat16)
    control = ControlNet.from_unet(base.unet)
    for parameter in control.parameters():  # an untrained control would share the base's weights
        parameter.data.add_(0.01)
    control.save(folder / "control")
    StableDiffusionPipeline(
        base.vae, base.text_encoder, base.tokenizer, base.unet, _scheduler(base),  # type: ignore[arg-type]
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,  # type: ignore[arg-type]
    ).save_pretrained(folder / "base")  # fmt: skip
    convert(folder / "base", folder / "base.safetensors", to="released")
    convert(folder / "control", folder / "control.safetensors", to="released")


def _scheduler(base: Any) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config(base.noise_schedule)


def load(way: str, folder: Path) -> dict[str, float]:
    """Loads in this process and says what it took."""
    import torch

    library, base_name, control_name = WAYS[way]
    if library == "tether":
        import tether.base.single_file  # noqa: F401  (its imports count as imports)
        from tether.base import ControlNet, load_base
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    start, before = time.perf_counter(), resident("VmRSS")
    if library == "tether":
        base = load_base(folder / base_name, dtype=torch.bfloat16)
        modules = [*base.modules(), ControlNet.load(folder / control_name, dtype=torch.bfloat16)]
    else:
        control = ControlNetModel.from_pretrained(folder / control_name, torch_dtype=torch.bfloat16)
        pipe: Any = StableDiffusionControlNetPipeline.from_pretrained(
            folder / base_name, controlnet=control, torch_dtype=torch.bfloat16
        )
        modules = [pipe.unet, pipe.vae, pipe.text_encoder, pipe.controlnet]
    loaded = time.perf_counter() - start
    weights = [parameter for module in modules for parameter in module.parameters()]
    for weight in weights:
        weight.detach().view(-1)[::1024].sum()  # two bytes of every 2 KiB: every page is read
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    return {"seconds": loaded, "weights": size, "peak": resident("VmHWM") - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the numbers here as JSON")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        write_weights(arguments.folder)
        return
    if arguments.way:
        print(json.dumps(load(arguments.way, arguments.folder)))
        return
    results: dict[str, Any] = {
        "date": date.today().isoformat(), "machine": f"{platform.machine()}, {os.cpu_count()} cores"
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a process of its own as well, so that its pages are gone.
        script = [sys.executable, __file__]
        subprocess.run([*script, "--write", "--folder", name], check=True)
        print(f"{'':28}{'peak / weights':>15}{'seconds':>10}")
        for way in WAYS:
            done = subprocess.run(
                [*script, "--way", way, "--folder", str(folder)], check=True, capture_output=True, text=True
            )
            results[way] = took = json.loads(done.stdout.splitlines()[-1])
            print(f"{way:28}{took['peak'] / took['weights']:15.3f}{took['seconds']:10.2f}", flush=True)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
