"""What a training run is: one typed file, kept beside the result.

Every field has a default that works, every field can be overridden, and a key that no field has is refused, so that a
misspelt setting never trains for a night with the default. `out` alone is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tether.control.hint import HintVariant
from tether.errors import TetherError
from tether.files.atomic import atomic_write

__all__ = ["CONFIG", "TrainConfig"]

CONFIG = "config.yaml"
"""Under which name a run's folder keeps its settings."""

# What may change when an unfinished run goes on: how long, how often, who watches, how a step's samples are split up.
_MAY_CHANGE = {
    "out",
    "cache",
    "batch_size",
    "gradient_accumulation",
    "gradient_checkpointing",
    "steps",
    "workers",
    "checkpoint_every",
    "keep_checkpoints",
    "checkpoint_minutes",
    "watch_every",
    "explosion",
    "after_convergence",
    "trackers",
    "device",
}


class TrainConfig(BaseModel):
    """All settings of a training run.

    Attributes:
        out: the run's folder: `config.yaml`, `checkpoints/`, `samples/`, `logs/`, and in the end `control/`.
        base: what `tether.load_base` opens.
        data: a built dataset's folder, or "emoji3d", "scenes", "circles".
        condition: the kind of condition; also names the obedience metric.
        cache: where latents and text states are kept; `out/cache` when left out.
        crops: random crops of each picture that the cache holds.
        resolution: side of the training pictures in pixels; the base's own when left out.
        start_from: a control to go on from: its folder, or a checkpoint's of another run; a copy of the base's encoder
            when left out.
        hint: which hint encoder a fresh control gets.
        steps: optimiser steps.
        batch_size: samples a process and a forward pass.
        gradient_accumulation: forward passes a step; the samples of a step are
            `batch_size * gradient_accumulation * processes`.
        gradient_checkpointing: recompute activations in the backward pass: less memory, more time.
        learning_rate, schedule, warmup_steps, final_learning_rate: "constant", "linear" or "cosine" from
            `learning_rate` to the share `final_learning_rate` of it, after a linear warm-up. The rate is 1e-5 where
            nothing is said, as for the released models, and 4e-4 on the shipped base.
        optimizer: "adamw", "adamw8bit" (needs bitsandbytes) or "adafactor".
        betas, weight_decay: of AdamW.
        max_grad_norm: gradients are scaled down to this norm; 0, the default, leaves them alone, as the released code
            does, and then no more than one of them is in memory at a time where a step is one forward pass of one
            process.
        ema: decay of the exponential moving average of the weights; 0 keeps none. With one, it is the result.
        precision: "bf16", "fp16", "no" (float32), or "auto": bf16 where the machine computes in it.
        device: "auto" takes what accelerate finds, "cpu" the processor.
        seed: of everything random. Sample n of the run is a function of `seed` and n alone.
        empty_prompts: share of prompts replaced by the empty one (0.5 in section 3.4).
        min_snr: γ of min-SNR weighting; None weighs every timestep alike.
        noise_offset: deviation of noise that is the same over a whole channel.
        only_middle: control the middle block only, as `only_mid_control` of the released code.
        unlock_decoder: train the base's decoder too, as `sd_locked=False` of the released code.
        explosion: from step 51 on, the run stops when a step's loss is this many times the largest of the first 50.
        workers: threads that prepare batches; 0 prepares them between the steps.
        checkpoint_every, checkpoint_minutes: a checkpoint is written after so many steps, or so many minutes without
            one, whichever comes first.
        keep_checkpoints: how many of the last ones stay.
        watch_every: steps between two looks at the validation pictures; 0 never looks.
        watch_pictures, watch_steps, watch_guidance: how many there are and how they are sampled.
        after_convergence: "continue", "stop" or "raise" (the batch, by `raise_accumulation`).
        raise_accumulation: factor on `gradient_accumulation` after convergence, where it is to be raised.
        trackers: accelerate's trackers, "tensorboard", "wandb", ...; of those not installed it is said.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    out: Path
    base: str = "tether"
    data: str = "emoji3d"
    condition: str = "canny"
    cache: Path | None = None
    crops: int = Field(4, ge=1)
    resolution: int | None = Field(None, ge=8)
    start_from: str | None = None
    hint: HintVariant = "released"

    steps: int = Field(2500, ge=1)
    batch_size: int = Field(8, ge=1)
    gradient_accumulation: int = Field(1, ge=1)
    gradient_checkpointing: bool = False
    learning_rate: float = Field(1e-5, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    final_learning_rate: float = Field(0.0, ge=0, le=1)
    optimizer: Literal["adamw", "adamw8bit", "adafactor"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(0.0, ge=0)
    ema: float = Field(0.0, ge=0, lt=1)
    precision: Literal["auto", "bf16", "fp16", "no"] = "auto"
    device: Literal["auto", "cpu"] = "auto"
    seed: int = Field(0, ge=0, lt=2**32)

    empty_prompts: float = Field(0.5, ge=0, le=1)
    min_snr: float | None = Field(None, gt=0)
    noise_offset: float = Field(0.0, ge=0)
    only_middle: bool = False
    unlock_decoder: bool = False
    explosion: float = Field(5.0, gt=1)

    workers: int = Field(1, ge=0, le=64)
    checkpoint_every: int = Field(250, ge=1)
    checkpoint_minutes: float = Field(5.0, gt=0)
    keep_checkpoints: int = Field(3, ge=1)
    watch_every: int = Field(100, ge=0)
    watch_pictures: int = Field(8, ge=1)
    watch_steps: int = Field(10, ge=1, le=1000)
    watch_guidance: float = Field(5.0, ge=1)
    after_convergence: Literal["continue", "stop", "raise"] = "continue"
    raise_accumulation: int = Field(4, ge=2)
    trackers: tuple[str, ...] = ("tensorboard",)

    @model_validator(mode="before")
    @classmethod
    def _learning_rate_of_the_base(cls, settings: Any) -> Any:
        # The shipped base is a hundredth of Stable Diffusion's size and learns at larger rates.
        if isinstance(settings, dict) and settings.get("base", "tether") == "tether":
            return {"learning_rate": 4e-4} | settings
        return settings

    @field_validator("precision", mode="before")
    @classmethod
    def _no_is_a_word(cls, value: Any) -> Any:
        return "no" if value is False else value  # as YAML reads it

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas must be from 0 to below 1")
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps is {self.warmup_steps}; it must be below steps, {self.steps}")
        return self

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> TrainConfig:
        """A config of plain values.

        Raises:
            TetherError: in one line, for an unknown key or a value that does not fit.
        """
        try:
            return cls(**settings)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the training config"
            if first["type"] == "extra_forbidden":
                known = ", ".join(cls.model_fields)
                raise TetherError(f"unknown training setting {where!r}; the settings are {known}") from None
            raise TetherError(f"training setting {where}: {first['msg']} (got {first['input']!r})") from None

    @classmethod
    def load(cls, path: Path | str, **overrides: Any) -> TrainConfig:
        """Reads a YAML file; overrides win over it.

        Raises:
            TetherError: where the file cannot be read, and as `of`.
        """
        try:
            settings = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            line = str(error).splitlines()[0]
            raise TetherError(f"cannot read the training config {path}: {line}") from None
        if not isinstance(settings, dict):
            raise TetherError(f"{path} is no training config: expected lines of 'setting: value'")
        return cls.of(settings | overrides)

    def save(self, path: Path) -> None:
        """Writes the config as YAML, every setting spelled out; whole or not at all.

        Raises:
            TetherError: where it cannot be written.
        """
        text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        with atomic_write(path, parents=True) as part:
            part.write_text(text, encoding="utf-8")

    def check_continues(self, before: TrainConfig) -> None:
        """Raises a TetherError where going on from `before` with this config would be another run."""
        ours, theirs = self.model_dump(mode="json"), before.model_dump(mode="json")
        changed = [name for name in ours if ours[name] != theirs[name] and name not in _MAY_CHANGE]
        if bool(self.watch_every) != bool(before.watch_every):  # other samples would be kept back
            changed.append("watch_every")
        if changed:
            told = ", ".join(f"{name} was {theirs[name]!r} and is now {ours[name]!r}" for name in changed)
            raise TetherError(f"{self.out} holds a run with other settings ({told}): give another folder, or the same")

    @property
    def samples_a_step(self) -> int:
        """Samples that one process sees in a step."""
        return self.batch_size * self.gradient_accumulation
