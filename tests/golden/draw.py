"""Draws the golden images by the command line, one process a command, on one thread.

    python tests/golden/draw.py [NAME ...]          (writes pictures/NAME.png and golden.json)

Run it only on a commit whose images are known to be right: it replaces what the tests compare with. `COMMANDS` are the
exact arguments of `tether generate`; they run in a folder that holds what `models.py` builds, so the requests inside
the PNGs name models by relative names. Of a batch the image of number `KEPT` is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import tether

HERE = Path(__file__).parent
PICTURES = HERE / "pictures"
FACTS = HERE / "golden.json"
LONG = "a (red:1.4) cube beside a blue ball, on a (green:0.6) floor, seen from above, with soft light and shadows"
CANNY = "--base tiny-base --control tiny-control=photo.png"
COMMANDS: dict[str, list[str]] = {
    name: shlex.split(command)
    for name, command in {
        "text": "'a red cube' --base tiny-base --steps 3 --seed 5 --negative 'dark, blurred'",
        "text-unguided-euler": "'a red cube' --base tiny-base --steps 3 --guidance 1 --scheduler euler",
        "control": f"'a red cube' {CANNY} --steps 3",
        "control-ddim-strength": f"'a red cube' {CANNY}:0.7 --steps 3 --scheduler ddim --fit pad",
        "sides-unipc": f"'a red cube' {CANNY} --sides 0.6 --steps 4 --scheduler unipc",
        "conditional-euler": f"'a red cube' {CANNY} --weighting conditional --steps 3 --scheduler euler",
        "cfg-rw-euler-a": f"'a red cube' {CANNY}:0.5 --weighting cfg-rw --steps 3 --scheduler euler-a --seed 9",
        "released": f"'' {CANNY} --weighting released --steps 3",
        "diffusers-lcm": f"'' {CANNY} --weighting diffusers --steps 3 --scheduler lcm --guidance 2",
        "weights": f"'a red cube' {CANNY} --weighting 0,0.2,0.4,0.6,0.8,1,1.2 --steps 3",
        "window": f"'a red cube' {CANNY}@0-0.5 --steps 4",
        "two-controls": f"'a cube' {CANNY}:0.8 --condition tiny-scribble=lines.png:0.5@0.2-1 --steps 4 --sides both",
        "shuffle": "'a cube' --base tiny-base --condition tiny-shuffle=photo.png --steps 3 --fit stretch",
        "img2img": f"'a cube' {CANNY} --init start.png --denoise 0.6 --steps 5",
        "img2img-euler-a": "'a cube' --base tiny-base --init start.png --denoise 0.5 --steps 4 --scheduler euler-a",
        "inpaint": f"'a cube' {CANNY} --init start.png --mask mask.png --denoise 0.8 --steps 4",
        "inpaint-base": "'a cube' --base tiny-inpaint --init start.png --mask mask.png --denoise 1 --steps 3",
        "inpaint-control": "'a cube' --base tiny-base --condition tiny-fill=start.png --init start.png --mask mask.png "
        "--denoise 1 --steps 3 --scheduler ddim",
        "lora": f"'a red cube' {CANNY} --lora tiny-lora.safetensors:0.8 --steps 3",
        "embedding": "'a <tiny-word> cube' --base tiny-base --embedding tiny-word.safetensors --steps 3",
        "batch": f"'a cube' {CANNY} --count 3 --seed 7 --steps 3 --scheduler euler-a",
        "seeds": "'a cube' --base tiny-base --seed 4,21 --steps 3 --size 48x64",
        "bfloat16": f"'a red cube' {CANNY} --dtype bfloat16 --steps 3",
        "low-memory": f"'a red cube' {CANNY} --low-memory --steps 2",
        "clip-skip": "'a red cube' --base tiny-base --clip-skip 1 --steps 3",
        "long-prompt": f"'{LONG}' --base tiny-base --steps 3 --negative 'a (grey:1.2) cube'",
        "xl": "'a (red:1.2) cube' --base tiny-xl --steps 3",
        "xl-control": "'a red cube' --base tiny-xl --control tiny-xl-control=photo.png --sides 0.6 --clip-skip 1 "
        "--negative dark --steps 3 --count 2",
        "velocity": "'a red cube' --base tiny-v --control tiny-control=photo.png --steps 3",
        "velocity-said": "'a red cube' --base tiny-base --prediction-type v_prediction --steps 3 --scheduler unipc",
        "shipped": "'a red apple, 3d emoji' --steps 3 --seed 7",
        "shipped-control": "'a house, 3d emoji' --control canny=photo.png --sides 0.6 --steps 3 --seed 7",
    }.items()
}
KEPT = {"batch": 1, "seeds": 1, "xl-control": 1}


def machine() -> dict[str, Any]:
    """What rounding depends on: the processor's make and which of its instructions are used."""
    lines: dict[str, str] = {}
    if Path("/proc/cpuinfo").exists():
        pairs = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
        lines = {name.strip(): value.strip() for name, _, value in reversed(list(pairs))}
    flags = set(lines.get("flags", "").split())
    limits = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
    return {
        "machine": platform.machine(),
        "vendor": lines.get("vendor_id", ""),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "instructions": sorted(flags & {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_tile"}),
        "limits": {name: os.environ[name] for name in limits if name in os.environ},
    }


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def draw(name: str, folder: Path) -> Path:
    """Runs one command in `folder`; the path of the image to keep."""
    out = folder / "out" / name
    command = [sys.executable, "-m", "tether", "generate", *COMMANDS[name], "-o", str(out)]
    sources = str(Path(tether.__file__).parents[1])  # of this process, whatever else is installed
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": sources}
    run = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return Path(run.stdout.splitlines()[KEPT.get(name, 0)])


def draw_masked() -> tuple[Image.Image, torch.Tensor]:
    """What no command can ask for: a region mask a control, by Python, in the models' folder."""
    base = tether.load_base("tiny-base")
    controls = [tether.ControlNet.load(name, base=base) for name in ("tiny-control", "tiny-scribble")]
    conditions = [tether.annotate("canny", Image.open("photo.png")), Image.open("lines.png")]
    left = torch.zeros(1, 1, 64, 64)
    left[..., :32] = 1
    injections = [
        tether.Injection(mask=left, sides=0.6),
        tether.Injection(mask=Image.open("mask.png"), strength=0.8, weighting="conditional", window=(0.0, 0.7)),
    ]
    pipeline = tether.Pipeline(base, controls)
    settings: dict[str, Any] = {"seed": 3, "count": 2, "steps": 3, "scheduler": "ddim", "spacing": "leading"}
    settings |= {"injections": injections}
    (_, picture) = pipeline("a red cube", conditions, **settings)
    latents = pipeline("a red cube", conditions, **settings, output="latents")
    assert isinstance(latents, torch.Tensor)
    return picture, latents


def annotations() -> dict[str, str]:
    """SHA-256 of the condition images of the photo, in the models' folder."""
    photo = Image.open("photo.png")
    maps = {
        "canny": tether.annotate("canny", photo),
        "canny low=20 high=60": tether.annotate("canny", photo, low=20, high=60),
        "scribble": tether.annotate("scribble", photo),
    }
    return {name: sha256(one.tobytes()) for name, one in maps.items()}


def main() -> None:
    from models import build_models  # beside this script, which tests load without its folder

    torch.set_num_threads(1)
    facts: dict[str, Any] = json.loads(FACTS.read_text()) if FACTS.exists() else {}
    facts["machine"] = machine()
    facts["versions"] = {name: version(name) for name in ("torch", "diffusers", "transformers", "numpy", "pillow")}
    pictures = facts.setdefault("pictures", {})
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room)
        build_models(folder)
        for name in sys.argv[1:] or COMMANDS:
            kept = PICTURES / f"{name}.png"
            shutil.copyfile(draw(name, folder), kept)
            with Image.open(kept) as picture:
                pictures[name] = {"file": sha256(kept.read_bytes()), "pixels": sha256(picture.tobytes())}
            print(name, kept.stat().st_size, pictures[name]["file"], flush=True)
        os.chdir(folder)
        picture, latents = draw_masked()
        os.chdir(HERE)
        picture.save(PICTURES / "python-mask.png")
        facts["python_mask"] = {"pixels": sha256(picture.tobytes()), "latents": sha256(latents.numpy().tobytes())}
        os.chdir(folder)
        facts["annotations"] = annotations()
        os.chdir(HERE)
    FACTS.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
