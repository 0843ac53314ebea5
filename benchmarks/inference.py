"""Drawing: a controlled step, a whole picture and a cold command, beside their peers in one run.

    python benchmarks/inference.py --out out/inference.json
    python benchmarks/inference.py --rows step-256 --methods diffusers-float32 tether-openvino-bfloat16
    python benchmarks/inference.py --rows cold --before PATH      PATH: a checkout of the commit to compare with
    python benchmarks/inference.py --tiny                         tests this script

Rows:

step-256, step-512   ControlNet and U-Net of Stable Diffusion 1.5's size with random weights, both sides of guidance
cold                 `tether generate` of one picture on the shipped base, as a new process
annotate             `tether annotate canny`, as a new process
loaded               `cold` with two busy loops beside it, to `cold` without

Methods of a step (those whose package is missing are left out with a line):

diffusers-float32         the peer that all times and errors are relative to
diffusers-bfloat16        channels last, its fastest without compilation
diffusers-compile         bfloat16, channels last, torch.compile with freezing
hand-openvino             `openvino.convert_model` of both networks, static shapes, its own precision, as a user would
tether-ENGINE-DTYPE       ENGINE: eager, compile, openvino; DTYPE: float32, bfloat16
  ...-once                with text keys and values computed once, as every run of eager has them
  ...-merged              the same, and half of the positions merged in the finest self-attentions
  ...-shallow             the same as once, of a step that uses deep features again
What less work costs in fidelity is measured by less_work.py.

Each method has a process of its own that makes the same weights and inputs from the same seeds, and stays. Rounds go
through the methods in turn, so that what else the machine does meets all of them; what is reported is the median of
`--rounds`, and the relative error of the last prediction. `--at-once` methods live at a time, for memory; the peer is
in every group. Nothing here downloads anything.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PEER = "diffusers-float32"
METHODS = (
    PEER,
    "diffusers-bfloat16",
    "hand-openvino",
    "tether-eager-float32",
    "tether-eager-bfloat16",
    "tether-eager-bfloat16-once",
    "tether-eager-bfloat16-merged",
    "tether-eager-bfloat16-shallow",
    "tether-openvino-float32",
    "tether-openvino-bfloat16",
    "diffusers-compile",
    "tether-compile-bfloat16",
)
STEPS = {"step-256": 256, "step-512": 512}
LASTING = ExitStack()
"""What is changed in a method's process for as long as it lives."""
COMMANDS = ("cold", "annotate", "loaded")
EXAMPLE = "house.webp"
HIDDEN = "openvino_telemetry"  # reports to its makers whenever a model is converted


# A method, in a process of its own.


def make_networks(tiny: bool) -> tuple[Any, Any]:
    """diffusers' U-Net and ControlNet, random and the same in every process, in float32."""
    import torch
    from diffusers import ControlNetModel, UNet2DConditionModel

    torch.manual_seed(0)
    small = {"block_out_channels": (32, 32, 64, 64), "layers_per_block": 1, "cross_attention_dim": 768}
    unet = UNet2DConditionModel(**(small if tiny else {"cross_attention_dim": 768})).eval().requires_grad_(False)
    control = ControlNetModel.from_unet(unet).eval().requires_grad_(False)
    for zero in (*control.controlnet_down_blocks, control.controlnet_mid_block, control.controlnet_cond_embedding):
        for parameter in zero.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    return unet, control


def make_inputs(pixels: int) -> dict[str, Any]:
    """Of both sides of guidance."""
    import torch

    random = torch.Generator().manual_seed(1)
    side = pixels // 8
    return {
        "latents": torch.randn(1, 4, side, side, generator=random).repeat(2, 1, 1, 1),
        "timestep": torch.tensor(481),
        "tokens": torch.randn(2, 77, 768, generator=random),
        "condition": torch.rand(1, 3, pixels, pixels, generator=random).round(),
    }


def make_call(method: str, pixels: int, tiny: bool) -> Any:
    """A function without arguments that computes one step and gives its prediction `(2, 4, h, w)` in float32."""
    import torch

    unet, control = make_networks(tiny)
    inputs = make_inputs(pixels)
    maker, *rest = method.split("-")
    if maker == "tether":
        return _tether(unet, control, inputs, rest[0], getattr(torch, rest[1]), *rest[2:])
    if maker == "hand":
        return _by_hand(unet, control, inputs)
    dtype = torch.float32 if rest[0] == "float32" else torch.bfloat16
    if dtype == torch.bfloat16:
        unet, control = (one.to(dtype).to(memory_format=torch.channels_last) for one in (unet, control))
    if rest[0] == "compile":
        unet, control = (torch.compile(one, options={"freezing": True}) for one in (unet, control))
    given = {name: one.to(dtype) if one.is_floating_point() else one for name, one in inputs.items()}

    def call() -> Any:
        down, middle = control(
            given["latents"],
            given["timestep"],
            encoder_hidden_states=given["tokens"],
            controlnet_cond=given["condition"].expand(2, -1, -1, -1),
            return_dict=False,
        )
        return unet(
            given["latents"],
            given["timestep"],
            encoder_hidden_states=given["tokens"],
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0].float()

    return call


def _tether(unet: Any, theirs: Any, inputs: dict[str, Any], engine: str, dtype: Any, less: str = "") -> Any:
    from tether.base import UNetDenoiser, noise_process
    from tether.control import Conditioning, ControlNet
    from tether.sampling.engines import engine as open_engine

    control = ControlNet.from_config(dict(theirs.config))
    control.load_state_dict(theirs.state_dict())
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
    unet, control = unet.to(dtype), control.to(dtype).eval().requires_grad_(False)
    denoiser, (steered,) = open_engine(engine).prepare(UNetDenoiser(unet, noise_process(schedule)), [control])
    hint = control.encode(inputs["condition"].to(dtype))
    latents, tokens = inputs["latents"].to(dtype), Conditioning(inputs["tokens"].to(dtype))

    def call() -> Any:
        signal = steered(latents, inputs["timestep"], tokens, hint)
        return denoiser.predict(latents, inputs["timestep"], tokens, signal).float()

    return _with_less(call, less, denoiser, control, (latents, inputs["timestep"], tokens), hint) if less else call


def _with_less(call: Any, less: str, denoiser: Any, control: Any, given: tuple[Any, ...], hint: Any) -> Any:
    """A step that computes less, in the ways that eager alone has; they last as long as the process."""
    from tether.base.deep import SplitDenoiser
    from tether.base.merging import tokens_merged
    from tether.base.text_once import text_once

    networks = [denoiser.network, control]
    LASTING.enter_context(text_once(networks))
    if less == "merged":
        LASTING.enter_context(tokens_merged(networks, 0.5, given[0].shape[-2:]))
    if less != "shallow":
        return call
    split, shallow = SplitDenoiser(denoiser, 1), control.shallow(1)
    _, deep = split.predict_whole(*given, control(*given, hint))
    return lambda: split.predict_shallow(*given, shallow(*given, hint), deep).float()


def _by_hand(unet: Any, control: Any, inputs: dict[str, Any]) -> Any:
    import torch

    sys.modules.setdefault(HIDDEN, None)  # type: ignore[arg-type]
    import openvino  # pyright: ignore[reportMissingImports]

    class Whole(torch.nn.Module):
        """Both networks as one, as a user would convert them for one set of controls."""

        def __init__(self) -> None:
            super().__init__()
            self.unet, self.control = unet, control

        def forward(self, latents: Any, timestep: Any, tokens: Any, condition: Any) -> Any:
            down, middle = self.control(latents, timestep, tokens, condition.expand(2, -1, -1, -1), return_dict=False)
            return self.unet(
                latents,
                timestep,
                tokens,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
                return_dict=False,
            )[0]

    example = tuple(inputs.values())
    model = openvino.convert_model(Whole().eval(), example_input=example)
    model.reshape({port: list(one.shape) for port, one in zip(model.inputs, example, strict=True)})
    compiled = openvino.Core().compile_model(model, "CPU")
    arrays = [one.numpy() for one in example]
    return lambda: torch.from_numpy(compiled(arrays)[0]).float()


def serve(method: str, pixels: int, tiny: bool, file: str) -> None:
    """Answers each line on standard input with the seconds of one step; the last prediction goes to a file."""
    import numpy as np
    import torch

    started = time.perf_counter()
    with torch.no_grad():
        call = make_call(method, pixels, tiny)
        call()
        print(json.dumps({"ready": time.perf_counter() - started}), flush=True)
        for _ in sys.stdin:
            began, used = time.perf_counter(), time.process_time()
            found = call()
            seconds = {"wall": time.perf_counter() - began, "cpu": time.process_time() - used}
            np.save(file, found.numpy())
            seconds["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            print(json.dumps(seconds), flush=True)


# The run.


class Worker:
    """A method's process."""

    def __init__(self, method: str, pixels: int, tiny: bool, folder: Path) -> None:
        self.file = folder / f"{method}-{pixels}.npy"
        words = [
            sys.executable,
            __file__,
            "--serve",
            method,
            str(pixels),
            str(self.file),
            *(["--tiny"] if tiny else []),
        ]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.times: list[dict[str, float]] = []
        self.ready = self._answer()

    def _answer(self) -> dict[str, float] | None:
        """The next line of JSON; None if the process has ended."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        return None

    def step(self) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:  # it has ended, for lack of memory for example
            return
        answer = self._answer()
        if answer is not None:
            self.times.append(answer)

    def end(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(30)


def measure_step(row: str, methods: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Medians and errors of one row."""
    import numpy as np

    pixels = 64 if options.tiny else STEPS[row]
    others = [method for method in methods if method != PEER]
    size = max(options.at_once - 1, 1)
    groups = [others[k : k + size] for k in range(0, len(others), size)] or [[]]
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for k, group in enumerate(groups):
            workers = {method: Worker(method, pixels, options.tiny, Path(name)) for method in (PEER, *group)}
            for _ in range(options.rounds):
                for worker in workers.values():
                    worker.step()
            for worker in workers.values():
                worker.end()
            if not workers[PEER].times:
                raise SystemExit(f"{PEER} failed")
            peer, exact = _median(workers[PEER], "wall"), np.load(workers[PEER].file)
            for method, worker in workers.items():
                if method == PEER and k:
                    continue
                if len(worker.times) < options.rounds:
                    results.append({"row": row, "method": method, "failed": True})
                    continue
                found = np.load(worker.file)
                seconds = _median(worker, "wall")
                results.append(
                    {
                        "row": row,
                        "method": method,
                        "seconds": seconds,
                        "cpu": _median(worker, "cpu"),
                        "faster": peer / seconds,
                        "error": float(np.linalg.norm(found - exact) / np.linalg.norm(exact)),
                        "peak": worker.times[-1]["peak"],
                        "start": (worker.ready or {}).get("ready"),
                    }
                )
    return results


def _median(worker: Worker, what: str) -> float:
    return statistics.median(one[what] for one in worker.times)


def run_command(source: Path, words: list[str]) -> dict[str, float]:
    """Seconds of a command of a checkout, as a new process."""
    environment = os.environ | {"PYTHONPATH": str(source / "src")}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "tether", *words], env=environment, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr.decode().strip()}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": time.perf_counter() - started, "cpu": cpu}


def measure_commands(row: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Medians of a command, here and before."""
    here = Path(__file__).resolve().parents[1]
    sources = {"now": here} | ({"before": Path(options.before).resolve()} if options.before else {})
    image = str(here / "src" / "tether" / "examples" / EXAMPLE)
    times: dict[str, list[dict[str, float]]] = {name: [] for name in sources}
    with tempfile.TemporaryDirectory() as name:
        for k in range(options.rounds + 1):  # the first reads files from the disk, and is not counted
            for which, source in sources.items():
                out = str(Path(name) / f"{which}-{k}.png")
                draw = ["generate", "a red apple, 3d emoji", "--seed", "7", "-o", out]
                draw += ["--steps", "2"] if options.tiny else []
                words = ["annotate", "canny", image, "-o", out] if row == "annotate" else draw
                found = _beside_busy_loops(source, words) if row == "loaded" else run_command(source, words)
                times[which] += [found] if k else []
    return [
        {"row": row, "method": which}
        | {what: statistics.median(one[what] for one in found) for what in ("wall", "cpu")}
        for which, found in times.items()
    ]


def _beside_busy_loops(source: Path, words: list[str]) -> dict[str, float]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 2)]
    try:
        return run_command(source, words)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def machine() -> dict[str, Any]:
    """What this was measured on, and when."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in ("torch", "diffusers", "openvino"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "amx": "amx_bf16" in flags,
        "avx512_bf16": "avx512_bf16" in flags,
        "load": os.getloadavg()[0],
        "date": date.today().isoformat(),
        "versions": versions,
    }


def table(results: list[dict[str, Any]]) -> str:
    """A line a measurement."""
    lines = [f"{'row':9} {'method':26} {'s':>7} {'cpu s':>7} {'faster':>7} {'error':>8} {'GiB':>5} {'start':>6}"]
    for one in results:
        if one.get("failed"):
            lines.append(f"{one['row']:9} {one['method']:26} failed")
        elif "seconds" in one:
            lines.append(
                f"{one['row']:9} {one['method']:26} {one['seconds']:7.2f} {one['cpu']:7.2f} {one['faster']:6.2f}x "
                f"{one['error']:8.1e} {one['peak'] / 2**30:5.1f} {one['start']:6.0f}"
            )
        else:
            lines.append(f"{one['row']:9} {one['method']:26} {one['wall']:7.2f} {one['cpu']:7.2f}")
    return "\n".join(lines)


def chosen_methods(asked: list[str] | None) -> list[str]:
    """The peer, and the methods that are asked for and can run here."""
    methods = list(asked or METHODS)
    for method in [one for one in methods if "openvino" in one]:
        if find_spec("openvino") is None:
            print(f"{method} is left out: OpenVINO is not installed", file=sys.stderr)
            methods.remove(method)
    return [PEER, *(one for one in methods if one != PEER)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Drawing, beside its peers in one run.")
    parser.add_argument("--rows", nargs="+", choices=[*STEPS, *COMMANDS], default=[*STEPS, *COMMANDS])
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=3, help="methods in memory at a time")
    parser.add_argument("--before", help="a checkout to compare commands with")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, to test this script")
    parser.add_argument("--serve", nargs=3, metavar=("METHOD", "PIXELS", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], int(options.serve[1]), options.tiny, options.serve[2])
        return
    results: list[dict[str, Any]] = []
    for row in options.rows:
        measured = row in STEPS
        found = (
            measure_step(row, chosen_methods(options.methods), options) if measured else measure_commands(row, options)
        )
        print(table(found), flush=True)
        results += found
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"machine": machine(), "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
