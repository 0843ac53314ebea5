"""A whole run: from a config to a trained control in a folder.

    OUT/config.yaml          every setting
    OUT/cache/               prepared samples, their latents and text states, unless they are elsewhere
    OUT/source.json          which source they are of, see `tether.training.source`
    OUT/data/                the data set, if its source is built first
    OUT/checkpoints/         see `tether.training.checkpoints`
    OUT/samples/             contact sheets of the validation images
    OUT/logs/                of the trackers
    OUT/control/             the result: a diffusers folder that `tether generate` opens
    OUT/unet/                the base's denoiser with its trained decoder, if it was unlocked
    OUT/result.json          how it ended, the curve of fidelity, the base's hash

Running the same config again resumes an unfinished run, and finds a finished one finished.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import set_seed

from tether.base import Base
from tether.base.base import cast_quietly
from tether.base.precision import slow_type
from tether.control.control import Control
from tether.errors import TetherError
from tether.evaluation import metric_of
from tether.files.atomic import write_text
from tether.files.hashing import hash_modules
from tether.files.writing import check_may_replace
from tether.training.auxiliary import use_autoencoder
from tether.training.checkpoints import list_checkpoints
from tether.training.config import CONFIG, TrainConfig
from tether.training.data import Data, OnStage, encodes_on_demand, open_data
from tether.training.events import Outcome, Progress
from tether.training.inspection import check_channels, inspect_data
from tether.training.lock import locked
from tether.training.performance.precision import resolve_precision
from tether.training.plan import Plan, measure, size_of
from tether.training.start import open_start
from tether.training.trainer import Trainer
from tether.training.validation import ImageValidator

__all__ = ["RESULT", "Result", "dry_run", "prepare_base", "train"]

logger = logging.getLogger(__name__)

CONTROL = "control"
"""The folder of the result."""
RESULT = "result.json"
"""The file of how a run ended."""
FOREVER = timedelta(days=30)


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes:
        outcome: how it ended.
        control: the folder of the trained control; None if the run was interrupted.
    """

    outcome: Outcome
    control: Path | None


def train(
    config: TrainConfig,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    on_stage: OnStage | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Result:
    """Starts a run, or resumes it.

    Args:
        config: the run.
        on_progress: called after each step.
        on_stage: called while data are made, with what is being made, how much of it is done, and how much there is.
        on_note: called with each line that the user should know, before data are made.

    Raises:
        Diverged: when the loss is not finite or has exploded.
        TetherError: in one line, for everything else that stops a run.
    """
    finished = _finished(config)
    if finished is not None:
        return finished
    check_may_replace(config.out / CONTROL, force=True, folder_of="control")  # not only when it is saved
    # The others wait for as long as the main process needs to make the data.
    main = PartialState(cpu=config.device == "cpu", timeout=FOREVER).is_main_process
    set_seed(config.seed)  # nothing here draws from the global generators; plug-ins may
    base, control = open_start(config)
    check_channels(control)
    if main:
        slow = slow_type(resolve_precision(config.precision, base.device), base.device)
        for line in [*([slow] if slow else []), *inspect_data(config, base).lines()]:
            (on_note or logger.info)(line)
    with locked(config.out, wanted=main):  # nothing is written before
        return _train(config, base, control, main, on_progress, on_stage)


def _train(
    config: TrainConfig,
    base: Base,
    control: Control,
    main: bool,
    on_progress: Callable[[Progress], None] | None,
    on_stage: OnStage | None,
) -> Result:
    """`train` from there on, in a folder that no other process trains in."""
    if main and not _begun(config):  # from the first checkpoint on the trainer decides what may change
        config.save(config.out / CONFIG)
    identity = {"base": hash_modules({"unet": base.unet})}
    data = open_data(config, base, on_stage)
    prepare_base(
        base,
        config,
        keep_text_encoders=data.encodes_prompts,
        keep_autoencoder=use_autoencoder(config.auxiliary_losses),
    )
    trainer = Trainer(
        base,
        control,
        data.batches,
        config,
        validator=_validator(config, base, data),
        on_progress=on_progress,
        identity=identity | {"data": data.content},
    )
    outcome = trainer.fit()
    if outcome.reason == "interrupted":
        trainer.end()
        return Result(outcome, None)
    with trainer.result() as trained:
        if main:
            trained.save(config.out / CONTROL)
            if config.unlock_decoder:
                base.unet.save_pretrained(config.out / "unet")
            _write_result(config, outcome)
    trainer.accelerator.wait_for_everyone()
    trainer.end()
    return Result(outcome, config.out / CONTROL)


def dry_run(config: TrainConfig) -> Plan:
    """What the run will take: one update is made on random numbers, and nothing is written."""
    base, control = open_start(config)
    check_channels(control)
    found = inspect_data(config, base)
    # Encoders that work while training stay in float32, beside the base.
    encoders = sum(size_of(module) for module in (base.vae, *base.text.networks))
    encoders = encoders if encodes_on_demand(config, base) else 0
    prepare_base(base, config)
    plan = measure(base, control, config)
    return replace(plan, data=found, memory=plan.memory | {"encoders": encoders})


def prepare_base(
    base: Base, config: TrainConfig, *, keep_text_encoders: bool = False, keep_autoencoder: bool = False
) -> None:
    """Makes a base as small as a run allows; call it when all latents and text states are cached.

    It is cast, in memory, to the type of the computation: half the memory, and no cast per step. A denoiser of which a
    part is trained is not, as its other part is written unchanged. Without validation, the weights of its autoencoder
    and text encoders are released (moved to "meta").

    Args:
        base: changed in place.
        config: the run.
        keep_text_encoders: whether prompts are encoded while training.
        keep_autoencoder: whether an auxiliary loss uses the autoencoder.
    """
    if not config.validation_every:
        kept = [
            base.unet,
            *(base.text.networks if keep_text_encoders else []),
            *([base.vae] if keep_autoencoder else []),
        ]
        for module in base.modules():
            if not any(module is one for one in kept):
                module.to("meta")
    dtype = resolve_precision(config.precision, base.device)
    if dtype is not None:
        for module in base.modules():
            if module is not base.unet or not config.unlock_decoder:
                cast_quietly(module, dtype)


def _validator(config: TrainConfig, base: Base, data: Data) -> ImageValidator | None:
    if not config.validation_every:
        return None
    return ImageValidator(
        base,
        data.validation,
        metric_of(config.kinds[0]),
        config.out / "samples",
        steps=config.validation_steps,
        guidance_scale=config.validation_guidance,
        seed=config.seed,
    )


def _begun(config: TrainConfig) -> bool:
    """Whether the run's folder holds training that other settings would spoil."""
    return bool(list_checkpoints(config.out / "checkpoints")) or (config.out / RESULT).exists()


def _finished(config: TrainConfig) -> Result | None:
    """The result of a run that is finished.

    Raises:
        TetherError: when the folder holds a run with other settings.
    """
    if not (config.out / CONFIG).exists() or not _begun(config):
        return None
    config.check_continues(TrainConfig.load(config.out / CONFIG))
    try:
        outcome = Outcome.from_json(json.loads((config.out / RESULT).read_text())["outcome"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TetherError(f"{config.out / RESULT} is damaged ({error}): delete it and run again") from None
    stopped = outcome.reason == "converged" and config.after_convergence == "stop"
    done = stopped or outcome.step >= config.steps
    return Result(outcome, config.out / CONTROL) if done and (config.out / CONTROL).is_dir() else None


def _write_result(config: TrainConfig, outcome: Outcome) -> None:
    values = {"outcome": outcome.to_json(), "settings": config.model_dump(mode="json")}
    write_text(config.out / RESULT, json.dumps(values, indent=1))
