"""Collects what travels to a machine with a GPU and no network in one folder, by default build/gpu.

    python recipes/gpu_bundle.py         (after sources.py, with wheels in build/wheels)

The folder holds the package and the recipes, the shipped weights as int8 to start from, the drawings as WebP, arrays
and SVG, and wheels. `recipes/gpu.sh` there does the rest. The wheels are what a machine with torch, transformers,
accelerate, typer, rich and PyYAML may lack; those that it lacks are installed. For Python 3.12:

    pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \\
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d build/wheels \\
        diffusers==0.42.1 importlib_metadata resvg-py==0.5.0 \\
        pydantic==2.14.3 pydantic_core==2.50.4 annotated-types typing-inspection
"""

from __future__ import annotations

import argparse
import json
import lzma
import shutil
from pathlib import Path

from bank import rank
from common import DATA
from gpu_weights import quantize
from sources import VECTOR_STYLES, entries, read_vectors
from tether.datasets.synthetic.emoji import is_held_out

ROOT = Path(__file__).parents[1]
WEIGHTS = Path("src/tether/weights")
TRAINED = ("base", "control-canny", "control-union")
"""Folders of weights that travel."""
LEFT_OUT = ("*.pyc", "__pycache__", "*.png", "*.safetensors", "*.egg-info")


def vectors(data: Path) -> dict[str, list[tuple[dict, str]]]:
    """The SVGs that are trained on, with their entries, of each style."""
    kept, found = entries(data / "raw"), {}
    for style in VECTOR_STYLES:
        rows = zip(kept, read_vectors(data / "raw", style, kept), strict=True)
        wanted = ((entry, svg) for entry, svg in rows if svg is not None and not is_held_out(entry["name"]))
        found[style] = [(entry, svg) for entry, svg in wanted if rank(entry["name"]) != "rest"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--wheels", type=Path, default=Path("build/wheels"))
    parser.add_argument("--out", type=Path, default=Path("build/gpu"))
    parser.add_argument("--start", nargs="+", default=TRAINED, help="of the shipped weights, which travel")
    arguments = parser.parse_args()
    out = arguments.out
    shutil.rmtree(out, ignore_errors=True)
    for folder in ("src/tether", "recipes"):
        shutil.copytree(ROOT / folder, out / folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for name in arguments.start:
        for weights in sorted((ROOT / WEIGHTS / name).rglob("*.safetensors")):
            quantize(weights, out / "start" / weights.relative_to(ROOT / WEIGHTS))
    (out / "data").mkdir()
    shutil.copy(arguments.data / "emoji-flat.npz", out / "data")
    with lzma.open(out / "data/vectors.json.xz", "wt") as file:
        json.dump(vectors(arguments.data), file)
    shutil.copytree(arguments.wheels, out / "wheels")
    sizes = {path: sum(file.stat().st_size for file in path.rglob("*.*")) / 1e6 for path in sorted(out.iterdir())}
    print(", ".join(f"{path.name} {size:.1f} MB" for path, size in sizes.items()))
    print(f"{out}: {sum(sizes.values()):.1f} MB")


if __name__ == "__main__":
    main()
