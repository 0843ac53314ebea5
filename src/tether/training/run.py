"""A whole run: from a config to a trained control in a folder.

    OUT/config.yaml          every setting, spelled out
    OUT/data/, OUT/cache/    the built dataset and its latents and text states, where they are not elsewhere
    OUT/checkpoints/         see `tether.training.checkpoints`
    OUT/samples/             contact sheets of the validation pictures
    OUT/logs/                of the trackers
    OUT/control/             the result: a diffusers folder that `tether generate` opens
    OUT/unet/                the base's denoiser with its trained decoder, where it was unlocked
    OUT/result.json          how it ended, the curve of obedience, the base's hash

Running the same config again goes on with an unfinished run, and finds a finished one finished.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import set_seed

from tether.base import Base, ControlNet, load_base
from tether.base.base import cast_quietly
from tether.errors import TetherError
from tether.evaluation import metric_of
from tether.files.materialize import check_fits_network
from tether.training.checkpoints import list_checkpoints, read_checkpoint
from tether.training.config import CONFIG, TrainConfig
from tether.training.data import open_data
from tether.training.events import Look, Outcome, Progress
from tether.training.objective import fingerprint
from tether.training.plan import Plan, measure
from tether.training.precision import resolve_precision
from tether.training.trainer import Trainer
from tether.training.watch import PictureWatcher

__all__ = ["Result", "dry_run", "prepare_base", "train"]

RESULT = "result.json"
FOREVER = timedelta(days=30)


@dataclass(frozen=True)
class Result:
    """What a run has come to.

    Attributes:
        outcome: how it ended.
        control: the folder of the trained control; None where the run was interrupted and has not ended.
    """

    outcome: Outcome
    control: Path | None


def train(
    config: TrainConfig,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    on_stage: Callable[[str, int, int], None] | None = None,
) -> Result:
    """Trains what the config says, or goes on with it.

    Args:
        config: the run.
        on_progress: called after each step.
        on_stage: called while data are made, with what is made, how much of it is done, and how much there is.

    Raises:
        Diverged: where the loss is not finite or has exploded.
        TetherError: in one line, for everything else that stops a run.
    """
    finished = _finished(config)
    if finished is not None:
        return finished
    # The others wait for as long as it takes the main process to make the data.
    main = PartialState(cpu=config.device == "cpu", timeout=FOREVER).is_main_process
    set_seed(config.seed)  # nothing of ours draws from the global generators; what is added to a run may
    base, control = _open(config)
    if main and not _begun(config):  # from the first checkpoint on it is for the trainer to say what may change
        config.save(config.out / CONFIG)
    identity = {"base": fingerprint({"unet": base.unet})}
    data = open_data(config, base, on_stage)
    prepare_base(base, config)
    watcher = None
    if config.watch_every:
        watcher = PictureWatcher(
            base,
            data.validation,
            metric_of(config.condition),
            config.out / "samples",
            steps=config.watch_steps,
            guidance_scale=config.watch_guidance,
            seed=config.seed,
        )
    trainer = Trainer(
        base,
        control,
        data.batches,
        config,
        watcher=watcher,
        on_progress=on_progress,
        identity=identity | {"data": data.content},
    )
    outcome = trainer.fit()
    if outcome.reason == "interrupted":
        trainer.end()
        return Result(outcome, None)
    with trainer.result() as trained:
        if main:
            trained.kind = config.condition
            trained.save(config.out / "control")
            if config.unlock_decoder:
                base.unet.save_pretrained(config.out / "unet")
            _write_result(config, outcome)
    trainer.accelerator.wait_for_everyone()
    trainer.end()
    return Result(outcome, config.out / "control")


def dry_run(config: TrainConfig) -> Plan:
    """What the run will take: one update is made on random numbers, and nothing is written."""
    base, control = _open(config)
    prepare_base(base, config)
    return measure(base, control, config)


def _open(config: TrainConfig) -> tuple[Base, ControlNet]:
    """The base in float32, on its device, and the control that training begins with."""
    device = PartialState(cpu=config.device == "cpu").device or torch.device("cpu")
    base = load_base(config.base, device=device)
    try:
        control = _first_control(config, base, device)
    except TetherError:
        if config.start_from is None or not list_checkpoints(config.out / "checkpoints"):
            raise
        # What a run began from may be gone: its own checkpoints hold everything, and must fit.
        control = _fresh_control(config, base)
    control.kind = config.condition
    return base, control


def _first_control(config: TrainConfig, base: Base, device: torch.device) -> ControlNet:
    """What training begins with where there is no checkpoint yet."""
    if config.start_from is not None and (Path(config.start_from) / "manifest.json").is_file():
        return _of_checkpoint(Path(config.start_from), base, config)
    if config.start_from is not None:
        control = ControlNet.load(config.start_from, device=device)
        control.check_fits(base)
        return control
    if base.unet.config["in_channels"] != base.unet.config["out_channels"]:
        raise TetherError(f"{base.name} takes more than latents (it is made for inpainting): train on a plain base")
    return _fresh_control(config, base)


def _fresh_control(config: TrainConfig, base: Base) -> ControlNet:
    torch.manual_seed(config.seed)
    return ControlNet.from_unet(base.unet, hint=config.hint)


def _of_checkpoint(folder: Path, base: Base, config: TrainConfig) -> ControlNet:
    """The control inside a checkpoint of another run: the average where there is one."""
    tensors = read_checkpoint(folder).tensors
    prefix, found = "control.", tensors.get("average") or tensors["model"]
    control = ControlNet.from_unet(base.unet, hint=config.hint)
    own = {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}
    check_fits_network(control.state_dict(), own, f"the control in {folder}")
    control.load_state_dict(own)
    return control


def _begun(config: TrainConfig) -> bool:
    """Whether the run's folder holds training that other settings would spoil."""
    return bool(list_checkpoints(config.out / "checkpoints")) or (config.out / RESULT).exists()


def prepare_base(base: Base, config: TrainConfig) -> None:
    """Makes a base as small as a run allows; call it when all latents and text states are cached.

    It is cast, in memory, to the type of the computation: half the memory, and no cast a step. A denoiser that is
    trained in part is not, for its other part is written as it was. Where no validation picture will be drawn, its
    autoencoder and text encoders lose their weights (they go to "meta").
    """
    if not config.watch_every:
        for module in base.modules():
            if module is not base.unet:
                module.to("meta")
    dtype = resolve_precision(config.precision, base.device)
    if dtype is not None:
        for module in base.modules():
            if module is not base.unet or not config.unlock_decoder:
                cast_quietly(module, dtype)


def _finished(config: TrainConfig) -> Result | None:
    """The result of a run that is finished.

    Raises:
        TetherError: where the folder holds a run with other settings.
    """
    if not (config.out / CONFIG).exists() or not _begun(config):
        return None
    config.check_continues(TrainConfig.load(config.out / CONFIG))
    try:
        told = json.loads((config.out / RESULT).read_text())
        outcome = Outcome(**told["outcome"] | {"curve": [Look(**look) for look in told["outcome"]["curve"]]})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TetherError(f"{config.out / RESULT} is damaged ({error}): delete it and run again") from None
    stopped = outcome.reason == "converged" and config.after_convergence == "stop"
    done = stopped or outcome.step >= config.steps
    return Result(outcome, config.out / "control") if done and (config.out / "control").is_dir() else None


def _write_result(config: TrainConfig, outcome: Outcome) -> None:
    part = config.out / f".{RESULT}.part"
    part.write_text(json.dumps({"outcome": asdict(outcome), "settings": config.model_dump(mode="json")}, indent=1))
    part.replace(config.out / RESULT)
