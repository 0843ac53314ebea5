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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from instruments import Clock, Enough, Parts, resident

VARIANTS = ("ours", "clipped", "reference", "finetune")
DTYPES = ("float32", "bf16")
GIB = 2**30
LEARNING_RATE = 1e-5
OUT_OF_MEMORY = "out of memory"
POLL = 0.05


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
        variant: one of `VARIANTS`.
        pixels: side of the images.
        batch: samples a step.
        dtype: "float32", or "bf16": mixed precision, what is trained stays float32.
        steps: how many are timed.
        tiny: a tiny model, to test this script.
        profile: time the parts of a step too, and in one more step PyTorch's operators; for "ours" and "clipped".
    """

    variant: str
    pixels: int
    batch: int
    dtype: str
    steps: int
    tiny: bool = False
    profile: bool = False


# --- in the process that is measured -----------------------------------------------------------------------------


def make_base(tiny: bool) -> Any:
    """A `tether.base.Base` of Stable Diffusion 1.5's size, or a tiny one, with random weights."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from tether.base import Base, TextEncoders
    from tether.formats.clip_vocabulary import clip_tokenizer
    from tether.formats.families import family_settings

    torch.manual_seed(0)
    settings = family_settings("sd1")
    unet = {"cross_attention_dim": 768}  # everything else of SD 1.x is diffusers' default
    vae = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    if tiny:
        unet = {"cross_attention_dim": 32, "block_out_channels": (32, 32, 64, 64), "layers_per_block": 1}
        vae = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
        text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    vae |= {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    ends = {"bos_token_id": 49406, "eos_token_id": 49407}
    return Base(
        UNet2DConditionModel.from_config(settings["unet"] | unet),  # type: ignore[arg-type]
        AutoencoderKL.from_config(settings["vae"] | vae),  # type: ignore[arg-type]
        TextEncoders(
            (clip_tokenizer("<|endoftext|>"), CLIPTextModel(CLIPTextConfig(vocab_size=49408, **text, **ends)))
        ),
        settings["scheduler"],
        name="random weights",
        family="sd1",
    )


def random_batches(setting: Setting, base: Any) -> Callable[[range], Any]:
    """What the cache gives: a `tether.training.Batch` of random numbers for the samples asked for."""
    import torch

    from tether.control import Conditioning
    from tether.training import Batch

    size, side = setting.pixels // base.latent_factor, setting.pixels
    states = (base.tokenizer.model_max_length, base.unet.config["cross_attention_dim"])

    def batches(samples: range) -> Batch:
        random = torch.Generator().manual_seed(samples.start)
        count = len(samples)
        return Batch(
            torch.randn(count, 4, size, size, generator=random),
            torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=random),
            Conditioning(torch.randn(count, *states, generator=random)),
        )

    return batches


def measure_ours(setting: Setting, clock: Clock) -> dict[str, Any]:
    """Runs `Trainer.fit`. Returns the seconds of each part of a step, and of operators, where they are asked for."""
    from tether.base import ControlNet
    from tether.training import TrainConfig, Trainer
    from tether.training.run import prepare_base

    base = make_base(setting.tiny)
    control = ControlNet.from_unet(base.unet)
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig.of(
            {
                "out": folder,
                "base": base.name,
                "steps": 10**6,
                "checkpoint_every": 10**6,
                "validation_every": 0,
                "batch_size": setting.batch,
                "precision": "bf16" if setting.dtype == "bf16" else "no",
                "device": "cpu",
                "trackers": (),
                "learning_rate": LEARNING_RATE,
                "max_grad_norm": 1.0 if setting.variant == "clipped" else 0.0,
            }
        )
        prepare_base(base, config)
        parts = Parts(setting.steps)
        sections = {"sections": parts.section} if setting.profile else {}
        trainer = Trainer(base, control, random_batches(setting, base), config, on_progress=clock, **sections)
        if setting.profile:
            parts.watch(trainer)
        with suppress(Enough):
            trainer.fit()
    if not setting.profile:
        return {}
    return {"parts": parts.medians(), "operators": parts.operators, "peak": parts.peak}


def measure_reference(setting: Setting, clock: Clock) -> None:
    """The loop of diffusers' train_controlnet.py."""
    import torch
    import torch.nn.functional as F
    from accelerate import Accelerator
    from diffusers import ControlNetModel, DDPMScheduler

    base = make_base(setting.tiny)
    accelerator = Accelerator(mixed_precision="bf16" if setting.dtype == "bf16" else "no", cpu=True)
    control = ControlNetModel.from_unet(base.unet).train()
    weight_dtype = torch.bfloat16 if setting.dtype == "bf16" else torch.float32
    base.to(dtype=weight_dtype)
    schedule = DDPMScheduler.from_config(base.noise_schedule)
    optimizer = torch.optim.AdamW(control.parameters(), lr=LEARNING_RATE)
    control, optimizer = accelerator.prepare(control, optimizer)

    random = torch.Generator().manual_seed(0)
    side = setting.pixels
    images = torch.rand(setting.batch, 3, side, side, generator=random) * 2 - 1
    conditions = torch.rand(setting.batch, 3, side, side, generator=random)
    tokens = torch.randint(1000, 40000, (setting.batch, base.tokenizer.model_max_length), generator=random)
    while True:
        with accelerator.accumulate(control):
            latents = base.vae.encode(images.to(weight_dtype)).latent_dist.sample()
            latents = latents * base.vae.config.scaling_factor
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, schedule.config.num_train_timesteps, (setting.batch,)).long()
            noisy = schedule.add_noise(latents, noise, timesteps)
            states = base.text_encoder(tokens)[0]
            down, middle = control(
                noisy,
                timesteps,
                encoder_hidden_states=states,
                controlnet_cond=conditions.to(weight_dtype),
                return_dict=False,
            )
            prediction = base.unet(
                noisy,
                timesteps,
                encoder_hidden_states=states,
                down_block_additional_residuals=[residual.to(weight_dtype) for residual in down],
                mid_block_additional_residual=middle.to(weight_dtype),
            ).sample
            loss = F.mse_loss(prediction.float(), noise.float(), reduction="mean")
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(control.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
        loss.detach().item()
        clock()


def measure_finetune(setting: Setting, clock: Clock) -> None:
    """Trains the whole UNet on latents and text states, with no control, by our loss and optimizer."""
    import torch

    from tether.training import TrainConfig
    from tether.training.batch import sample_generators
    from tether.training.objective import diffusion_loss
    from tether.training.optimizer import backward_and_step, make_optimizer
    from tether.training.performance.locked import uncopied_weights
    from tether.training.performance.memory import retained_memory

    base = make_base(setting.tiny)
    batches = random_batches(setting, base)
    denoiser = base.denoiser
    config = TrainConfig.of({"out": ".", "base": base.name, "learning_rate": LEARNING_RATE})
    unet = base.unet.requires_grad_(True).train()
    del base
    parameters = list(unet.parameters())
    optimizer = make_optimizer(config, unet)
    step, device = 0, torch.device("cpu")
    with retained_memory(device):
        while True:
            samples = range(step * setting.batch, (step + 1) * setting.batch)
            batch = batches(samples).to(device)
            with torch.autocast("cpu", torch.bfloat16, enabled=setting.dtype == "bf16"), uncopied_weights():
                loss = diffusion_loss(
                    lambda noisy, t: denoiser.predict(noisy, t, batch.conditioning),  # noqa: B023
                    batch.latents,
                    denoiser.spec.noise,
                    randomness=sample_generators(0, samples),
                )
            loss.item()
            backward_and_step(loss, optimizer, parameters).item()
            step += 1
            clock()


def measure(setting: Setting) -> dict[str, Any]:
    """Runs the steps in this process: {"seconds": [...], "peak": bytes, "imports": bytes, ...}."""
    import diffusers  # noqa: F401
    import torch
    import transformers  # noqa: F401

    import tether.training.run  # noqa: F401

    # If memory runs out all the same, the system ends this process first.
    Path("/proc/self/oom_score_adj").write_text("1000")
    own = setting.variant in ("ours", "clipped")
    imports, clock, parts = resident("VmRSS"), Clock(setting.steps, more=int(own and setting.profile)), {}
    try:
        if own:
            parts = measure_ours(setting, clock)
        elif setting.variant == "reference":
            measure_reference(setting, clock)
        else:
            measure_finetune(setting, clock)
    except Enough:
        pass
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            return {"error": OUT_OF_MEMORY}
        raise
    return {
        "seconds": clock.seconds,
        "page_faults": clock.page_faults,
        "peak": resident("VmHWM"),
        "imports": imports,
        **parts,
        "threads": torch.get_num_threads(),
    }


# --- in the process that asks ------------------------------------------------------------------------------------


def measure_apart(setting: Setting, limit: int) -> dict[str, Any]:
    """`measure` in a process of its own, which is ended when it has more than `limit` bytes resident."""
    command = [sys.executable, __file__, "--measure", json.dumps(asdict(setting))]
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
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(Setting(**json.loads(arguments.measure)))))
        return

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
