"""Makes the next edition of the base in one run on a GPU; recipes/gpu.sh calls it.

Each stage is skipped where an earlier call has finished it, and writes to $OUT what it made. One that fails does not
stop those after it that do not need it. Seconds are those of one H200 with torch 2.11:

| stage | what | seconds | to $OUT |
|---|---|---|---|
| prepare | start weights, drawings, plans, scenes; images for the autoencoder, where it is trained | 77 | |
| autoencoder | trains the shipped one further, on whole images; `--autoencoder 0`: it stays as it is | 138 | |
| latents | standardizes a new autoencoder; encodes | 45 | vae |
| denoiser | it and the text encoder are trained further, in the time that is left | 0.13 a step | unet, text_encoder |
| controls | the canny control and the union, on the new base, side by side | 0.2 and 0.3 a step | control, union |
| | and what measures: the judge of scenes and the contrastive model | 150 | judge, contrast |
| samples | a sheet of everyday prompts with four seeds each | 20 | samples.png |

The controls' latents, edges and images are made while the denoiser trains. The denoiser is compiled only if it has 5
minutes or more; the controls never are: their compilation alone took longer than all of their training. A step of the
union does not wait for its conditions: they are made before. `--denoiser 0 --control 0` trains the union alone, on the
shipped base, and what measures.

Weights are written in pieces: vae.0 and so on. $OUT/log.txt has the output of all, at the end of each stage.
recipes/gpu_results.py makes folders of the files.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from safetensors.torch import save_file

from gpu_weights import split
from tether.training.checkpoints import latest_checkpoint

STAGES = ("prepare", "autoencoder", "latents", "denoiser", "controls", "samples")
SHIPPED = Path("src/tether/weights")
WEIGHTS = "diffusion_pytorch_model.safetensors"
SCENES = Path("data/scenes-maps.npz")
ANNOTATED = ("softedge", "scribble", "lineart", "seg", "mlsd")
"""Kinds whose conditions take the processor long."""
VAE, BASE = Path("runs/autoencoder/vae"), Path("runs/base")
LOGS = Path("logs")
WORTH_COMPILING = 5.0
"""Minutes of the denoiser from which on it is compiled."""
GRACE = 8.0
"""Seconds that a recipe gets to end: `tether train` writes a checkpoint."""


class Run:
    """Runs the recipes, in time."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.out = Path(os.environ.get("OUT", "results"))
        self.started = float(os.environ.get("STARTED", time.time()))
        self.processes: list[subprocess.Popen] = []
        self.background: list[tuple[str, subprocess.Popen]] = []
        LOGS.mkdir(exist_ok=True)

    def left(self) -> float:
        """Seconds until the limit."""
        return self.started + 60 * self.arguments.limit - time.time()

    def begin(self, name: str, *command: object, background: bool = False) -> subprocess.Popen:
        """Starts a recipe, its output in logs/`name`.txt."""
        words = [sys.executable, *(str(word) for word in command)]
        words = ["nice", "-n", "10", *words] if background else words
        self.say(f"{name}: {' '.join(words)}")
        with (LOGS / f"{name}.txt").open("a") as log:
            self.processes.append(subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, start_new_session=True))
        return self.processes[-1]

    def end(self, name: str, process: subprocess.Popen, limit: float) -> bool:
        """Waits `limit` seconds for a recipe, and ends it then; returns whether it succeeded."""
        begun = time.time()
        try:
            code = process.wait(max(1.0, min(limit, self.left() - GRACE - 2)))
        except subprocess.TimeoutExpired:
            self.stop(process)
            code = -signal.SIGTERM
        self.say(f"{name}: exit {code}, waited {time.time() - begun:.0f} s")
        return code == 0

    def stop(self, process: subprocess.Popen) -> None:
        """Ends a recipe and the processes that it started, if it still runs."""
        if process.poll() is not None:
            return
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def run(self, name: str, *command: object, limit: float = 600) -> bool:
        return self.end(name, self.begin(name, *command), limit)

    def say(self, words: str) -> None:
        """A line to the output, with the seconds since the start."""
        line = f"[{time.time() - self.started:5.0f} s] {words}"
        print(line, flush=True)
        with (LOGS / "00.txt").open("a") as log:
            log.write(line + "\n")

    def give(self, name: str, source: Path) -> None:
        """Copies weights to $OUT, as pieces of float16 files."""
        if source.exists():
            split(source, self.out / name)

    def give_logs(self) -> None:
        parts = [f"== {path.stem}\n{path.read_text()}" for path in sorted(LOGS.glob("*.txt"))]
        (self.out / "log.txt").write_text("\n".join(parts))


def trained(arguments: argparse.Namespace, minutes: float, batch: int, lr: float, warmup: int) -> list[object]:
    """Options of a recipe that trains."""
    options = ["--minutes", round(minutes, 3), "--batch", batch, "--lr", lr, "--warmup", warmup]
    return [*options, "--device", arguments.device, "--save-every", 400]


def base_folder() -> Path:
    """The new base, where one was trained."""
    return BASE if (BASE / "unet").exists() else SHIPPED / "base"


def vae_folder() -> Path:
    """The new base's autoencoder, which is there before its denoiser is."""
    return BASE / "vae" if (BASE / "vae").exists() else SHIPPED / "base/vae"


def prepare(run: Run) -> bool:
    """Everything that the CPU makes; what is needed later in the background."""
    a = run.arguments
    if a.denoiser == 0:
        run.background = list(scenes_for_controls(run).items())
        return run.run("unpack", "recipes/gpu_unpack.py") and run.run("bank", "recipes/bank.py")
    render, held_out = "recipes/render_scenes.py", max(1, round(160 * a.scale))
    plan, wide = ("recipes/mixture.py", "--scale", a.scale), ("--centred", 0.15, "--seed", 2)
    needed = []
    if a.autoencoder:  # its images are of the first scenes, and of others
        first = (render, "--count", round(6000 * a.scale), "--held-out", held_out)
        needed = [("scenes-first", run.begin("scenes-first", *first, background=True))]
    well = (
        run.run("unpack", "recipes/gpu_unpack.py")
        and run.run("bank", "recipes/bank.py")
        and run.run("plan-wide", *plan[:2], 0.24 * a.scale, *wide, "--out", "data/mixture-wide.npz")
        and all(run.end(name, process, 200) for name, process in needed)
    )
    if not well:
        return False
    more = (render, "--count", round(a.scenes * a.scale), "--held-out", 0, "--out", "data/scenes-all.npz")
    run.background = [("plan", run.begin("plan", *plan)), ("scenes", run.begin("scenes", *more))]
    return not a.autoencoder or run.run("pictures", "recipes/pictures.py", "--device", a.device)


def autoencoder(run: Run) -> bool:
    a = run.arguments
    options = trained(a, a.autoencoder, a.batch_autoencoder, 1e-3, 80)
    command = ("recipes/autoencoder.py", "--start", SHIPPED / "base/vae", "--window", 128, "--seed", 11, *options)
    return run.run("autoencoder", *command, limit=60 * a.autoencoder + 40)


def improved() -> bool:
    """Whether the autoencoder's latest PSNR is above that of the shipped one, which its log begins with."""
    log = LOGS / "autoencoder.txt"
    lines = log.read_text().splitlines() if log.exists() else []
    values = [float(line.split()[0]) for line in lines if line.endswith(" dB")]
    return VAE.exists() and len(values) > 1 and values[-1] > values[0]


def latents(run: Run) -> bool:
    for name, process in run.background:
        run.end(name, process, 150)
    if not Path("data/mixture.npz").exists():  # an earlier call was stopped before
        run.run("plan", "recipes/mixture.py", "--scale", run.arguments.scale)
    rendered = Path("data/scenes-all.npz")
    if rendered.exists():
        rendered.replace("data/scenes.npz")
    new = improved()
    vae = VAE if new else SHIPPED / "base/vae"
    run.say(f"the autoencoder at {vae} is encoded with")
    command = ["recipes/latents.py", "--vae", vae, "--base", BASE, "--device", run.arguments.device]
    well = run.run("latents", *command, *(["--again"] if new else []), limit=120)
    if new:
        run.give("vae", BASE / "vae" / WEIGHTS)
    return well


def denoiser(run: Run) -> bool:
    a = run.arguments
    if a.denoiser == 0:
        ended = [run.end(name, process, 300) for name, process in control_data(run).items()]  # each of them
        return all(ended)
    later = 60 * (max(a.control, a.union, a.judge) + a.samples) + 45 * bool(a.control or a.union or a.judge)
    minutes = a.denoiser or (run.left() - later - 32) / 60
    options = [*trained(a, minutes, a.batch, a.rate, 150), "--seed", a.seed]
    if a.compile and minutes >= WORTH_COMPILING:
        options.append("--compile")
    command = ("recipes/denoiser.py", "--start", SHIPPED / "base", "--out", BASE, *options)
    begun, process = time.time(), run.begin("denoiser", *command)
    prepared = control_data(run)
    well = run.end("denoiser", process, 60 * minutes + 40 - (time.time() - begun))
    run.give("unet", BASE / "unet" / WEIGHTS)
    run.give("text_encoder", BASE / "text_encoder/model.safetensors")
    ended = [run.end(name, process, 150) for name, process in prepared.items()]  # each of them, also after a failure
    return all(ended) and well


def scenes_for_controls(run: Run) -> dict[str, subprocess.Popen]:
    """Begins to render the scenes of the union and of the judge."""
    a, render, begun = run.arguments, "recipes/render_scenes.py", {}
    if a.union and not SCENES.exists():
        options = ("--held-out", 0, "--maps", "--mannequins", "--out", SCENES)
        begun["scenes-maps"] = run.begin("scenes-maps", render, "--count", round(a.union_scenes * a.scale), *options)
    if a.judge and not Path("data/judges.npz").exists():
        count = ("--count", round(a.judge_scenes * a.scale))
        begun["judge-scenes"] = run.begin("judge-scenes", "recipes/judges.py", "render", *count, background=True)
    return begun


def control_data(run: Run) -> dict[str, subprocess.Popen]:
    """Begins to make what the controls and the judge are trained on; returns the processes that do, by name."""
    a = run.arguments
    begun = dict(run.background) if a.denoiser == 0 and run.background else scenes_for_controls(run)
    command = ("recipes/latents.py", "--vae", vae_folder(), "--device", a.device)
    if a.control:
        wide = ("--mixture", "data/mixture-wide.npz", "--out", "data/latents-wide.npz", "--edges", "--scenes", 20000)
        begun["latents-wide"] = run.begin("latents-wide", *command, *wide, background=True)
    if a.union:
        plan = ("--scale", a.union_scale * a.scale, "--centred", 0.4, "--seed", a.seed)
        run.run("plan-union", "recipes/mixture.py", *plan, "--out", "data/mixture-union.npz")
        if "scenes-maps" in begun:
            run.end("scenes-maps", begun.pop("scenes-maps"), 400)
        images = ("--mixture", "data/mixture-union.npz", "--scene-file", SCENES)
        kept = ("--out", "data/latents-union.npz", "--images", "--annotate", *ANNOTATED)
        begun["latents-union"] = run.begin("latents-union", *command, *images, *kept, background=a.denoiser != 0)
    return begun


def controls(run: Run) -> bool:
    """The canny control and the union, side by side: alone, neither keeps the GPU busy. What measures beside them."""
    a, canny, union = run.arguments, SHIPPED / "control-canny", SHIPPED / "control-union"
    union = union if (union / WEIGHTS).exists() else canny
    begun_at, measuring = time.time(), {}
    if a.judge:
        options = ("--minutes", a.judge, "--batch", 128, "--widths", *a.judge_widths, "--vae", vae_folder())
        measuring["judge"] = run.begin("judge", "recipes/judges.py", "train", "--device", a.device, *options)
    if a.contrast:
        options = ("--steps", a.contrast, "--device", a.device)
        measuring["contrast"] = run.begin("contrast", "recipes/contrast.py", "train", *options, background=True)
    plans = {
        "control": (a.control, a.control_step, a.batch_control, canny),
        "union": (a.union, a.union_step, a.batch_union, union),
    }
    minutes = {name: min(plan[0], (run.left() - 45) / 60) for name, plan in plans.items()}
    wanted = [name for name in plans if minutes[name] > 0.1 * plans[name][0]]
    begun = {name: begin_control(run, name, minutes[name], *plans[name][1:]) for name in wanted}
    well = [end_control(run, name, process, minutes[name]) for name, process in begun.items()]
    for name, process in measuring.items():
        well.append(run.end(name, process, 60 * a.judge + 120 - (time.time() - begun_at)))
    for name, folder in (("judge", Path("runs/judges/judge")), ("contrast", Path("runs/contrast/model"))):
        run.give(name, folder / "model.safetensors")
        if (folder / "config.json").exists():
            shutil.copy(folder / "config.json", run.out / f"{name}-config.json")
    return bool(well) and all(well)


def begin_control(run: Run, name: str, minutes: float, step: float, batch: int, start: Path) -> subprocess.Popen:
    """Moves a shipped control to the new base and trains it further, in `minutes` of steps of `step` seconds."""
    a = run.arguments
    recipe = "recipes/control-canny.yaml" if name == "control" else "recipes/control-union.yaml"
    command = ["-m", "tether", "train", "--config", recipe, "--out", Path("runs") / name, "--base", base_folder()]
    command += ["--steps", max(1, round(60 * minutes / step)), "--batch-size", batch]
    command += ["--learning-rate", 1e-3, "--seed", 14, "--checkpoint-every", 100]
    settings = {
        "device": "cpu" if a.device == "cpu" else "auto",
        "attention": "math" if a.device == "cpu" else "auto",
        "start_from": start,
        "start_base": SHIPPED / "base",
        "warmup_steps": 60,
        "ema_warmup": "true",  # a short round has to forget what it started from
        "workers": 1 if name == "control" else 4,
        "trackers": "[]",
    }
    command += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return run.begin(name, *command)


def end_control(run: Run, name: str, process: subprocess.Popen, minutes: float) -> bool:
    """Waits for a control's training, and gives what it has come to."""
    out = Path("runs") / name
    well = run.end(name, process, 60 * minutes + 45)
    run.give(name, out / "control" / WEIGHTS if well else unfinished(out))
    if name == "union":  # its kinds are the recipe's, which the shipped one need not have
        configs = [*sorted(out.glob("checkpoints/step-*/config.json")), out / "control/config.json"]
        for config in [config for config in configs if config.exists()][-1:]:
            shutil.copy(config, run.out / "union-config.json")
    return well


def unfinished(out: Path) -> Path:
    """A run's average so far as a file of weights: of its latest checkpoint, if there is one."""
    path, prefix = out / "unfinished.safetensors", "control."
    if found := latest_checkpoint(path.parent / "checkpoints"):
        average = found.tensors["average"].items()
        save_file({name.removeprefix(prefix): tensor for name, tensor in average if name.startswith(prefix)}, path)
    return path


def samples(run: Run) -> bool:
    if run.left() < 15:
        return False
    command = ("recipes/gpu_samples.py", "--base", base_folder(), "--out", run.out, "--device", run.arguments.device)
    return run.run("samples", *command)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=9.6, help="minutes for all, from gpu.sh's start on")
    parser.add_argument("--autoencoder", type=float, default=1.7, help="minutes; 0: it stays as it is")
    parser.add_argument("--denoiser", type=float, help="minutes; what the others leave by default")
    parser.add_argument("--control", type=float, default=3.0, help="minutes of its steps; 0: no control")
    parser.add_argument("--control-step", type=float, default=0.21, help="seconds of a step, to know their number")
    parser.add_argument("--union", type=float, default=3.0, help="minutes of its steps; 0: no union")
    parser.add_argument("--union-step", type=float, default=0.5, help="seconds of a step, to know their number")
    parser.add_argument("--union-scenes", type=int, default=8000)
    parser.add_argument("--union-scale", type=float, default=0.06, help="of its mixture")
    parser.add_argument("--judge", type=float, default=3.0, help="minutes; 0: none")
    parser.add_argument("--judge-scenes", type=int, default=8000)
    parser.add_argument("--judge-widths", type=int, nargs="+", default=(48, 64, 80, 96, 96))
    parser.add_argument("--contrast", type=int, default=3000, help="steps; 0: none")
    parser.add_argument("--samples", type=float, default=0.4, help="minutes that are kept for them")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--batch", type=int, default=1024, help="of the denoiser")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="learning rate of the denoiser")
    parser.add_argument("--seed", type=int, default=15, help="of the denoiser; another for every round")
    parser.add_argument("--batch-control", type=int, default=384)
    parser.add_argument("--batch-union", type=int, default=390, help="a multiple of how many kinds the recipe lists")
    parser.add_argument("--batch-autoencoder", type=int, default=96)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of images, for a trial")
    parser.add_argument("--scenes", type=int, default=30_000)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="not even a long denoiser")
    arguments = parser.parse_args()
    if arguments.denoiser == 0 and arguments.control:
        parser.error("--denoiser 0 keeps the base, and its canny control with it: give --control 0 too")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    run, needed = Run(arguments), {"prepare", "latents"}
    for stage in arguments.stages:
        done = Path(f"done-{stage}")
        if done.exists() or (stage in ("autoencoder", "samples") and not getattr(arguments, stage)):
            continue
        if arguments.denoiser == 0 and stage in ("autoencoder", "latents", "samples"):  # the base stays
            continue
        run.say(f"== {stage}, {run.left():.0f} s left")
        try:
            well = globals()[stage](run)
        except Exception as error:  # the results of earlier stages must come back whatever happens
            run.say(f"{stage}: {error!r}")
            well = False
        if well:
            done.touch()
        run.give_logs()
        if not well and stage in needed:
            run.say(f"{stage} failed: nothing can follow")
            break
    for process in run.processes:
        run.stop(process)
    run.say("the end")
    run.give_logs()


if __name__ == "__main__":
    main()
