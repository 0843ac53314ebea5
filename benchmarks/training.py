"""One training step of a control: Tether's, the reference loop's, and that of the whole UNet without a control.

    python benchmarks/training.py --out out/training.json
    python benchmarks/training.py --pixels 256 --dtype float32 --only ours reference
    python benchmarks/training.py --tiny                          tests this script

The model has Stable Diffusion 1.5's size and random weights. The steps, on the CPU:

ours       what `tether.training.Trainer.fit` does: fed with latents and text states, as the cache feeds it; no
           validation
clipped    the same with `max_grad_norm: 1`, as the reference clips: all gradients are there before the first is used
reference  what diffusers' `examples/controlnet/train_controlnet.py` does with its default flags: image and text are
           encoded, ControlNet, UNet with residuals, MSE, backward, clipping, `torch.optim.AdamW`
finetune   the whole UNet is trained without a control; inputs, loss, optimizer and care for memory as for "ours"

Each is measured in a process of its own. Time is the median over the steps after the first, which allocates. Memory is
the most that the process ever had resident, less what it had after its imports. A process that exceeds `--limit` is
ended and reported as "out of memory".
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import training_steps
from instruments import resident
from training_steps import OUT_OF_MEMORY, VARIANTS, Setting

DTYPES = ("float32", "bf16")
GIB = 2**30
POLL = 0.05


def measure_apart(setting: Setting, limit: int) -> dict[str, Any]:
    """`training_steps.measure` in a process of its own, which is ended when it has more than `limit` bytes resident."""
    command = [sys.executable, training_steps.__file__, json.dumps(asdict(setting))]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors)
        outgrown = False
        try:
            while process.poll() is None:
                if resident("VmRSS", process.pid) > limit:
                    outgrown = True
                    process.kill()
                time.sleep(POLL)
        finally:
            process.kill()
            process.wait()
        if outgrown or process.returncode == -signal.SIGKILL:  # by us, or by the system
            return {"error": OUT_OF_MEMORY}
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            return {"error": (errors.read().strip().splitlines() or [f"exit code {process.returncode}"])[-1]}
        return json.loads(output.read().splitlines()[-1])


def machine() -> dict[str, Any]:
    """What this was measured on, and when."""
    from importlib.metadata import version

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "date": date.today().isoformat(),
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers", "accelerate")},
    }


def table(results: list[dict[str, Any]]) -> str:
    """One line a measurement. "faster" is its time over ours, "memory" our memory over its."""
    lines = [
        f"{'pixels':>6} {'batch':>5} {'dtype':8} {'':10} {'s/step':>8} {'GiB':>6} {'ours is':>14} {'ours needs':>14}"
    ]
    for result in results:
        where = {name: result[name] for name in ("pixels", "batch", "dtype")}
        start = f"{result['pixels']:6} {result['batch']:5} {result['dtype']:8} {result['variant']:10}"
        if "error" in result:
            lines.append(f"{start} {result['error']}")
            continue
        ours = next((r for r in results if where.items() <= r.items() and r["variant"] == "ours"), {"error": ""})
        ratios = ""
        if result["variant"] != "ours" and "error" not in ours:
            faster, share = result["seconds"] / ours["seconds"], ours["memory"] / result["memory"]
            ratios = f" {faster:6.2f}x faster {share:6.2f} of memory"
        lines.append(f"{start} {result['seconds']:8.3f} {result['memory'] / GIB:6.2f}{ratios}")
        for times in filter(None, (result.get("parts"), result.get("operators"))):
            lines.append("       " + ", ".join(f"{name} {seconds:.3f}" for name, seconds in times.items()))
    return "\n".join(lines)


def summary(setting: Setting, found: dict[str, Any]) -> dict[str, Any]:
    """A measurement as it is printed and written: medians, and memory without the imports."""
    if "error" in found:
        return asdict(setting) | {"error": found["error"]}
    return asdict(setting) | {
        "seconds": statistics.median(found["seconds"]),
        "memory": found["peak"] - found["imports"],
        "each_step": found["seconds"],
        "page_faults": statistics.median(found["page_faults"]),
        "imports": found["imports"],
        "parts": found.get("parts"),
        "operators": found.get("operators"),
        "threads": found["threads"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pixels", type=int, nargs="+", help="sides of the images (default: 256 512)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed, after one that is not (default: 5)")
    parser.add_argument("--limit", type=float, default=20, help="memory of one process in GiB (default: 20)")
    parser.add_argument("--profile", action="store_true", help="time the parts of our step as well")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to test this script")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that no measurement is left behind
    results: list[dict[str, Any]] = []
    for dtype in arguments.dtype:
        for pixels in arguments.pixels or ([64] if arguments.tiny else [256, 512]):
            for batch in arguments.batch:
                for variant in [name for name in VARIANTS if name in arguments.only]:
                    setting = Setting(variant, pixels, batch, dtype, arguments.steps, arguments.tiny, arguments.profile)
                    found = measure_apart(setting, int(arguments.limit * GIB))
                    results.append(summary(setting, found))
                    print(table(results[-1:]).splitlines()[1], flush=True)
                    if arguments.out is not None:
                        arguments.out.parent.mkdir(parents=True, exist_ok=True)
                        report = {"machine": machine(), "results": results}
                        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print()
    print(table(results))


if __name__ == "__main__":
    main()
