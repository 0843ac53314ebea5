"""`tether train`: a folder of pictures in, a control out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tether.errors import TetherError

if TYPE_CHECKING:
    from tether.training.config import TrainConfig

__all__ = ["train"]


def train(
    data: Annotated[
        str | None,
        typer.Option(help="A built dataset, a source of one, or emoji3d, scenes, circles.", show_default=False),
    ] = None,
    condition: Annotated[str | None, typer.Option(help="Kind of condition: canny, ...", show_default=False)] = None,
    base: Annotated[str | None, typer.Option(help="The base to steer.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run's folder.", show_default=False)] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.", show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples a process and pass.", show_default=False)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the optimiser.", show_default=False)] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.", show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.", show_default=False)] = None,
    only_middle: Annotated[bool, typer.Option("--only-middle", help="Control the middle block only.")] = False,
    unlock_decoder: Annotated[bool, typer.Option("--unlock-decoder", help="Train the base's decoder too.")] = False,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings; flags win over it.", show_default=False)
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE, any other setting, as ema=0.999. Repeatable.", show_default=False),
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="A run to go on with.", show_default=False)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and stop.")] = False,
) -> None:
    """Train a control. The same command again goes on with an unfinished run."""
    flags = {
        "data": data,
        "condition": condition,
        "base": base,
        "out": out,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "checkpoint_every": checkpoint_every,
        "seed": seed,
        "only_middle": only_middle or None,
        "unlock_decoder": unlock_decoder or None,
    }
    given = {name: value for name, value in flags.items() if value is not None} | _parsed(settings or [])
    if dry_run and out is None and resume is None and config is None:
        given["out"] = Path("dry-run")  # nothing is written there
    from tether.training import run
    from tether.training.config import CONFIG, TrainConfig

    if resume is not None:
        settled = TrainConfig.load(resume / CONFIG, **{**given, "out": resume})
    elif config is not None:
        settled = TrainConfig.load(config, **given)
    elif "out" not in given:
        raise TetherError("give the run's folder: --out RUN")
    else:
        settled = TrainConfig.of(given)
    if dry_run:
        _tell_plan(settled)
        return

    from accelerate import PartialState

    from tether.cli.progress import training_line

    with training_line() as (on_progress, on_stage):
        result = run.train(settled, on_progress=on_progress, on_stage=on_stage)
    outcome = result.outcome
    appeared = "" if outcome.appeared_at is None else f" (control appeared at step {outcome.appeared_at})"
    told = f"{outcome.reason} after {outcome.step} steps{appeared}: the control is in {result.control}"
    if result.control is None:
        told = f"stopped at step {outcome.step} with a checkpoint: run the same command again to go on"
    if PartialState().is_main_process:
        print(told)
    if result.control is None:
        raise typer.Exit(130)


def _parsed(settings: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` texts, their values read as YAML."""
    import yaml

    parsed = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise TetherError(f"--set {text}: write NAME=VALUE, as ema=0.999")
        try:
            parsed[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise TetherError(f"--set {text}: the value does not read") from None
    return parsed


def _tell_plan(config: TrainConfig) -> None:
    """Prints what a run would take."""
    from tether.training.run import dry_run

    plan = dry_run(config)
    print(f"parameters trained  {plan.trained / 1e6:.1f} M")
    print(f"parameters locked   {plan.locked / 1e6:.1f} M")
    print(f"steps               {plan.steps} ({plan.samples} samples)")
    print(f"memory, estimated   {plan.total_memory / 1e9:.2f} GB")
    for what, size in plan.memory.items():
        print(f"  {what:18}{size / 1e9:.2f} GB")
    print(f"time, estimated     {plan.seconds / 3600:.2f} h ({plan.seconds_a_step:.2f} s a step)")
