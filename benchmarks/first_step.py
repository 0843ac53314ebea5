"""How long a run of a built-in set takes to its first step, beside preparing the whole set first.

    python benchmarks/first_step.py [--samples 64]

Each run is a process of its own: `tether train --steps 1 --batch-size 2` with all other settings as they are, so the
time includes imports, the base, the validation before the first step, and the step. What came before was to build the
whole set and to encode four crops of every sample: that is measured for a few samples, and scaled to the set.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tether.base import load_base
from tether.datasets.build import build_dataset
from tether.datasets.latents.cache import build_cache, plan_cache
from tether.datasets.sources import open_source

SETS = {"circles": "canny", "emoji3d": "canny", "scenes": "depth"}
CROPS = 4
RUN = """
import sys, time
from pathlib import Path
from tether.training.config import TrainConfig
from tether.training.run import train
config = {"data": sys.argv[1], "condition": sys.argv[2], "out": Path(sys.argv[3]), "steps": 1, "batch_size": 2,
          "device": "cpu", "trackers": []}
train(TrainConfig.of(config), on_progress=lambda _: print(time.time()))
"""


def first_step(name: str, kind: str, out: Path) -> float:
    """Seconds from the start of a process to the end of its first step."""
    started = time.time()
    done = subprocess.run([sys.executable, "-c", RUN, name, kind, str(out)], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1]) - started


def whole_set(name: str, kind: str, samples: int, out: Path) -> float:
    """Seconds to build and encode the whole set, from those of a few samples, on all cores."""
    base, size = load_base(), load_base().sample_size * 9 // 8
    started = time.perf_counter()
    build_dataset(name, out / "data", kind, size=size, count=samples)
    build_cache(plan_cache(out / "data", base, out / "cache", crops=CROPS))
    return (time.perf_counter() - started) * len(open_source(name, size=size)) / samples


def main() -> None:
    parser = argparse.ArgumentParser(description="Time to the first step of a run, and to prepare its whole set.")
    parser.add_argument("--samples", type=int, default=64, help="samples from which the whole set is estimated")
    samples = parser.parse_args().samples
    print("| set | first step | whole set first, estimated |\n|---|---|---|")
    for name, kind in SETS.items():
        with tempfile.TemporaryDirectory() as folder:
            step = first_step(name, kind, Path(folder) / "run")
            whole = whole_set(name, kind, samples, Path(folder))
        print(f"| `{name}`, {kind} | {step:.1f} s | {whole:.0f} s more |", flush=True)


if __name__ == "__main__":
    main()
