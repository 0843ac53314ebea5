"""The training steps that `benchmarks/training.py` compares, each run in a process of its own.

python benchmarks/training_steps.py '{"variant": "ours", "pixels": 256, "batch": 1, "dtype": "float32", "steps": 5}'
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instruments import Clock, Enough, Parts, resident

VARIANTS = ("ours", "clipped", "reference", "finetune")
LEARNING_RATE = 1e-5
OUT_OF_MEMORY = "out of memory"


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
        device: "cpu", or "cuda", for "ours", "clipped" and "reference".
    """

    variant: str
    pixels: int
    batch: int
    dtype: str
    steps: int
    tiny: bool = False
    profile: bool = False
    device: str = "cpu"


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
                "device": "cpu" if setting.device == "cpu" else "auto",
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
    accelerator = Accelerator(mixed_precision="bf16" if setting.dtype == "bf16" else "no", cpu=setting.device == "cpu")
    control = ControlNetModel.from_unet(base.unet).train()
    weight_dtype = torch.bfloat16 if setting.dtype == "bf16" else torch.float32
    base.to(accelerator.device, weight_dtype)
    schedule = DDPMScheduler.from_config(base.noise_schedule)
    optimizer = torch.optim.AdamW(control.parameters(), lr=LEARNING_RATE)
    control, optimizer = accelerator.prepare(control, optimizer)

    random = torch.Generator().manual_seed(0)
    side = setting.pixels
    images = torch.rand(setting.batch, 3, side, side, generator=random) * 2 - 1
    conditions = torch.rand(setting.batch, 3, side, side, generator=random)
    tokens = torch.randint(1000, 40000, (setting.batch, base.tokenizer.model_max_length), generator=random)
    images, conditions, tokens = (one.to(accelerator.device) for one in (images, conditions, tokens))
    while True:
        with accelerator.accumulate(control):
            latents = base.vae.encode(images.to(weight_dtype)).latent_dist.sample()
            latents = latents * base.vae.config.scaling_factor
            noise = torch.randn_like(latents)
            timesteps = (
                torch.randint(0, schedule.config.num_train_timesteps, (setting.batch,)).long().to(accelerator.device)
            )
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
        "device memory": torch.cuda.max_memory_allocated() if setting.device == "cuda" else 0,
    }


if __name__ == "__main__":
    print(json.dumps(measure(Setting(**json.loads(sys.argv[1])))))
