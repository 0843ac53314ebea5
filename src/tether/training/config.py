"""The settings of a training run: one typed YAML file, kept beside the result.

Every field has a default and a description beside it. A key that is not a field is an error, so that a misspelled
setting never trains for a night with the default. Only `out` is required.
"""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tether.datasets.names import Reading
from tether.errors import TetherError
from tether.files.atomic import atomic_write
from tether.kinds import find_kind
from tether.training.settings import current_names, plain, read_resolution, suggestion

__all__ = ["CONFIG", "AuxiliaryLossConfig", "TrainConfig"]

logger = logging.getLogger(__name__)

CONFIG = "config.yaml"
"""Name of the settings file in a run's folder."""

# Settings that may change when an unfinished run is resumed: how long, how often, how a step's samples are split.
# Base and data are compared by content (`tether.training.terms`), as they may be moved.
_MAY_CHANGE = {
    "out",
    "base",
    "data",
    "cache",
    "batch_size",
    "gradient_accumulation",
    "gradient_checkpointing",
    "steps",
    "workers",
    "checkpoint_every",
    "keep_checkpoints",
    "checkpoint_minutes",
    "validation_every",
    "divergence_factor",
    "after_convergence",
    "trackers",
    "device",
}


def _own_name(kind: Any) -> Any:
    """The canonical name of a kind of condition; other values are returned unchanged, and refused later."""
    return find_kind(kind).name if isinstance(kind, str) and kind else kind


class AuxiliaryLossConfig(BaseModel):
    """One auxiliary loss: L = L_diffusion + w_k L_auxiliary at step k."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    loss: str = Field(description="its name (entry point group `tether.auxiliary_losses`), `module:name`, or "
                      "`path/to/file.py:name`; the code there is run")  # fmt: skip
    weight: float = Field(1.0, ge=0, description="w_0; with 0 the loss is not computed")
    until: float | None = Field(
        None, gt=0, le=1, description="share of the steps at which w_k has fallen to 0 along a line; never by default"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the loss")

    def weight_at(self, step: int, steps: int) -> float:
        """w_k of step k = `step`, counted from 0, in a run of `steps` steps."""
        return self.weight if self.until is None else self.weight * max(0.0, 1 - step / (self.until * steps))


class TrainConfig(BaseModel):
    """All settings of a training run; each field's description says what it does."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    # Where, and what to learn from.
    out: Path = Field(
        description="the run's folder: `config.yaml`, `checkpoints/`, `samples/`, `logs/`, at the end `control/`"
    )
    base: str = Field("tether", description="the base model, as for `tether generate --base`")
    data: str = Field(
        "emoji3d",
        description="a built dataset's folder, a source of one, emoji3d, scenes, circles, or a packed latents file "
        "(.npz, see `tether.training.packed`)",
    )
    condition: str | tuple[str, ...] = Field(
        "canny",
        description="kind of the condition images; its metric measures fidelity. A list of kinds trains a union: they "
        "take turns, and one that is listed twice gets twice the samples",
    )
    image_column: str | None = Field(None, description="column, key or mark of the source's images")
    caption_column: str | None = Field(None, description="column or key of the source's captions")
    condition_column: str | None = Field(
        None, description="column, key or mark of the source's own conditions; none: annotate the images"
    )
    condition_folder: str | None = Field(
        None, description="folder of the source's own conditions; none: no folder holds conditions"
    )
    captions: Literal["one", "all", "none"] = Field(
        "one", description="of several captions: one at random each time, or all joined; none: no captions"
    )
    split: str | None = Field(None, description="split of the source to read, or all; train by default")
    cache: Path | None = Field(None, description="folder for cached latents and text states; `out/cache` by default")
    crops: int = Field(4, ge=1, description="random crops of each image that the cache holds")
    mirror: bool | None = Field(
        None,
        description="mirror half of the crops, unless the caption names a side or writing; by default if the kind of "
        "condition is known and may be mirrored; true: unknown kinds too",
    )
    resolution: int | str | None = Field(
        None, description="size of the training images in pixels: a side, or WIDTHxHEIGHT; the base's own by default"
    )
    buckets: bool = Field(
        False,
        description="aspect buckets: each image is trained on in the size of nearly the area of `resolution` whose "
        "aspect ratio is nearest to its own; all images of a step have one size",
    )
    bucket_step: int | None = Field(
        None, ge=1, description="what the sides of buckets are multiples of; by default up to 64 pixels, by resolution"
    )
    latents: Literal["mean", "sample"] = Field(
        "mean",
        description="of the autoencoder's posterior: its mean, or a sample drawn each time an image is shown, as the "
        "original code does",
    )
    shares: dict[str, float] | None = Field(
        None, description="share of the samples that each group of a packed latents file gets; by size by default"
    )

    # What to train.
    family: str = Field(
        "controlnet", description="family of a fresh control; union where `condition` is a list, if none is given"
    )
    hint: Literal["released", "paper"] = Field("released", description="hint encoder of a fresh ControlNet")
    start_from: str | None = Field(
        None,
        description="control to start from: its folder, or a checkpoint of another run; a copy of the base's encoder "
        "by default",
    )
    start_base: str | None = Field(
        None, description="the base that `start_from` was trained on, if not `base`: the control is moved to `base`"
    )
    only_middle: bool = Field(
        False,
        description="control the middle block only (`only_mid_control`; ControlNet only), from a control that has not "
        "learned to control the skip connections",
    )
    unlock_decoder: bool = Field(False, description="train the base's decoder too (`sd_locked=False`)")

    # Steps and memory.
    steps: int = Field(2500, ge=1, description="optimizer steps")
    batch_size: int = Field(8, ge=1, description="samples per process and forward pass")
    gradient_accumulation: int = Field(
        1,
        ge=1,
        description="forward passes per step; a step has batch_size * gradient_accumulation * processes samples",
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, more time"
    )
    precision: Literal["auto", "bf16", "fp16", "no"] = Field(
        "auto", description="type of the computation; no: float32; auto: bf16 where the hardware has it"
    )
    device: Literal["auto", "cpu"] = Field("auto", description="auto: what accelerate finds")
    attention: Literal["auto", "math"] = Field(
        "auto", description="attention kernel; math, the plain one, is faster on a CPU for short sequences"
    )

    # Optimizer.
    optimizer: Literal["adamw", "adamw8bit", "adafactor", "muon"] = Field(
        "adamw", description="adamw8bit needs bitsandbytes; muon: Muon for matrices and kernels, AdamW for the rest"
    )
    learning_rate: float = Field(
        1e-5, gt=0, description="learning rate; the default is that of the released models, on the shipped base 4e-4"
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="learning rate after the warmup: constant, or falling to final_learning_rate"
    )
    warmup_steps: int = Field(0, ge=0, description="steps over which the learning rate rises along a line")
    final_learning_rate: float = Field(
        0.0, ge=0, le=1, description="share of learning_rate at which linear and cosine schedules end"
    )
    betas: tuple[float, float] = Field((0.9, 0.999), description="betas of AdamW")
    weight_decay: float = Field(0.01, ge=0, description="weight decay")
    max_grad_norm: float = Field(
        0.0, ge=0, description="clip gradients to this norm; 0: no clipping, and less memory (see docs/training.md)"
    )
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay of the moving average of the weights, which is then the result; 0: none"
    )
    ema_warmup: bool = Field(
        True, description="let the decay rise from 0.1; false: the average starts at the weights after step 1"
    )

    # Loss.
    seed: int = Field(0, ge=0, lt=2**32, description="seed of everything random")
    randomness: Literal["sample", "batch"] = Field(
        "sample",
        description="what has a random generator of its own: each sample, whose noise is then independent of its "
        "batch, or each batch",
    )
    prompt_dropout: float = Field(0.5, ge=0, le=1, description="share of prompts replaced by the empty prompt")
    min_snr: float | None = Field(None, gt=0, description="gamma of min-SNR weighting; none by default")
    velocity_cap: float | None = Field(
        None, gt=0, description="weigh errors of the noise as errors of velocity, up to this weight; off by default"
    )
    noise_offset: float = Field(
        0.0, ge=0, description="standard deviation of additional noise that is constant over each channel"
    )
    timestep_shift: float = Field(1.0, gt=0, description="draw timesteps from noisier steps; 1: uniformly")
    stratified_timesteps: bool = Field(
        False, description="spread each batch's timesteps evenly over the schedule (needs randomness: batch)"
    )
    auxiliary_losses: tuple[AuxiliaryLossConfig, ...] = Field(
        (), description="further losses: a list of {loss, weight, until, options}"
    )
    divergence_factor: float = Field(
        5.0, gt=1, description="from step 51 on, stop if a loss is this many times the largest of the first 50"
    )

    # Data loading, checkpoints, validation.
    workers: int = Field(1, ge=0, le=64, description="threads that prepare batches; 0: prepare them between steps")
    checkpoint_every: int = Field(250, ge=1, description="steps between checkpoints")
    checkpoint_minutes: float = Field(5.0, gt=0, description="longest time without a checkpoint")
    keep_checkpoints: int = Field(3, ge=1, description="how many of the latest checkpoints to keep")
    validation_every: int = Field(100, ge=0, description="steps between validations; 0: no validation")
    validation_images: int = Field(8, ge=1, description="validation images, never trained on")
    validation_steps: int = Field(10, ge=1, le=1000, description="sampling steps of validation images")
    validation_guidance: float = Field(5.0, ge=1, description="guidance scale of validation images")
    after_convergence: Literal["continue", "stop", "raise"] = Field(
        "continue", description="after sudden convergence: go on, stop, or raise gradient_accumulation"
    )
    raise_accumulation: int = Field(4, ge=2, description="factor on gradient_accumulation for after_convergence: raise")
    trackers: tuple[str, ...] = Field(("tensorboard",), description="accelerate's trackers: tensorboard, wandb, ...")

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, settings: Any) -> Any:
        if not isinstance(settings, dict):
            return settings
        settings = current_names(settings)
        condition = settings.get("condition", "")
        if not isinstance(condition, str) or "," in condition:
            settings = {"family": "union"} | settings
        # The shipped base is a hundredth of Stable Diffusion's size and learns at larger rates.
        return {"learning_rate": 4e-4} | settings if settings.get("base", "tether") == "tether" else settings

    @field_validator("condition", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if isinstance(value, str) and "," in value:
            value = value.split(",")
        # By their own names, as a union, a source and a judge are asked for them: "lines" is mlsd.
        if not isinstance(value, (list, tuple)):
            return _own_name(value)
        return tuple(_own_name(one) for one in value)

    @field_validator("resolution", mode="before")
    @classmethod
    def _read_resolution(cls, value: Any) -> int | str | None:
        return None if value is None else read_resolution(value)

    @field_validator("precision", mode="before")
    @classmethod
    def _no_is_a_word(cls, value: Any) -> Any:
        return "no" if value is False else value  # as YAML reads it

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.kinds or not all(self.kinds):
            raise ValueError("condition must name a kind, or list some")
        if len(self.kinds) > 1 and self.family == "controlnet":
            raise ValueError("a ControlNet is for one kind of condition: several need family: union")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas must be from 0 to below 1")
        if self.stratified_timesteps and self.randomness != "batch":
            raise ValueError("stratified_timesteps needs randomness: batch")
        self._check_sizes()
        if self.start_base is not None and self.start_from is None:
            raise ValueError("start_base needs start_from")
        if self.shares is not None and not (
            all(share >= 0 for share in self.shares.values()) and sum(self.shares.values()) > 0
        ):
            raise ValueError("shares must be 0 or more each, and above 0 together")
        return self

    def _check_sizes(self) -> None:
        if self.bucket_step is not None and not self.buckets:
            raise ValueError("bucket_step needs buckets: true")
        if self.buckets and len(self.kinds) > 1:
            raise ValueError("buckets are for one kind of condition: leave them out, or train one kind")
        if self.data.endswith(".npz") and (self.buckets or self.latents != "mean"):
            raise ValueError("a packed latents file has one size and means of latents: leave buckets and latents out")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> TrainConfig:
        """A config of plain values.

        Raises:
            TetherError: for an unknown setting or an invalid value, in one line.
        """
        try:
            return cls(**settings)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the training config"
            if first["type"] == "extra_forbidden":
                raise TetherError(
                    f"unknown training setting {where!r}: {suggestion(where, cls.model_fields)}"
                ) from None
            problem, value = first["msg"].removeprefix("Value error, "), reprlib.repr(first["input"])[:80]
            if not first["loc"]:  # of several settings together
                raise TetherError(f"training settings: {problem}") from None
            raise TetherError(f"training setting {where}: {problem} (got {value})") from None

    @classmethod
    def load(cls, path: Path | str, **overrides: Any) -> TrainConfig:
        """Reads a YAML file; overrides win over it.

        Raises:
            TetherError: when the file cannot be read, and as `of`.
        """
        try:
            settings = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
            line = str(error).splitlines()[0]
            raise TetherError(f"cannot read the training config {path}: {line}") from None
        if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
            raise TetherError(f"{path} is not a training config: expected lines of 'setting: value'")
        return cls.of(current_names(settings) | current_names(overrides))

    def save(self, path: Path) -> None:
        """Writes the config as YAML, with every setting, atomically.

        Raises:
            TetherError: when it cannot be written.
        """
        text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        with atomic_write(path, parents=True) as part:
            part.write_text(text, encoding="utf-8")

    def check_continues(self, before: TrainConfig) -> None:
        """Raises a TetherError when resuming a run of settings `before` with this config would make another run."""
        ours, theirs = self.model_dump(mode="json"), before.model_dump(mode="json")
        changed = [name for name in ours if ours[name] != theirs[name] and name not in _MAY_CHANGE]
        if bool(self.validation_every) != bool(before.validation_every):  # other samples would be held back
            changed.append("validation_every")
        if self.randomness == "batch" and self.batch_size != before.batch_size:  # what a batch draws would be another
            changed.append("batch_size")
        if changed:
            listed = ", ".join(f"{name} was {theirs[name]!r} and is now {ours[name]!r}" for name in changed)
            raise TetherError(
                f"{self.out} holds a run with other settings ({listed}): use another folder, or the same settings"
            )

    @property
    def turns(self) -> tuple[str, ...]:
        """The kinds of condition as they are listed; see `tether.training.rota`."""
        return (self.condition,) if isinstance(self.condition, str) else self.condition

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of condition, each once."""
        return tuple(dict.fromkeys(self.turns))

    @property
    def trains_union(self) -> bool:
        """Whether the control is for several kinds, so that each sample's kind has to be known."""
        return self.family == "union"

    @property
    def reading(self) -> Reading:
        """How the names of the data's source are read."""
        return Reading(
            self.image_column,
            self.caption_column,
            self.condition_column,
            self.condition_folder,
            self.captions,
            self.split,
        )

    @property
    def image_size(self) -> int | tuple[int, int] | None:
        """`resolution` as a side, or as width and height."""
        if isinstance(self.resolution, str):
            width, height = self.resolution.split("x")
            return int(width), int(height)
        return self.resolution

    @property
    def samples_a_step(self) -> int:
        """Samples that one process sees in a step."""
        return self.batch_size * self.gradient_accumulation

    @classmethod
    def describe(cls) -> Iterator[tuple[str, str, str]]:
        """Name, default and description of each setting, for help and documentation."""
        for name, field in cls.model_fields.items():
            default = (
                "required"
                if field.is_required()
                else yaml.safe_dump(plain(field.default), default_flow_style=True).splitlines()[0]
            )
            yield name, default, field.description or ""
