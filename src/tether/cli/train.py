"""`tether train`: a data set in, a control out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tether.cli.options import CaptionColumn, ConditionColumn, ConditionFolder, ImageColumn
from tether.cli.sources import check_model
from tether.errors import TetherError

if TYPE_CHECKING:
    from tether.training.config import TrainConfig

__all__ = ["train"]


def _list_settings(wanted: bool) -> None:
    """Prints every setting with its default and description, and exits."""
    if wanted:
        from tether.training.config import TrainConfig

        for name, default, description in TrainConfig.describe():
            print(f"{name} ({default})\n    {description}")
        raise typer.Exit


def train(
    data: Annotated[
        str | None,
        typer.Option(help="Built data set, a source of one, emoji3d, scenes, circles, or .npz.", show_default=False),
    ] = None,
    condition: Annotated[str | None, typer.Option(help="Kind of condition: canny, ...", show_default=False)] = None,
    base: Annotated[str | None, typer.Option(help="Base model.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run.", show_default=False)] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.", show_default=False)] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Samples per process and forward pass.", show_default=False)
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate.", show_default=False)] = None,
    resolution: Annotated[
        str | None, typer.Option(help="Side of the training images in pixels, or WIDTHxHEIGHT.", show_default=False)
    ] = None,
    buckets: Annotated[
        bool, typer.Option("--buckets", help="Train each image in a size of its own shape and nearly the same area.")
    ] = False,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.", show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.", show_default=False)] = None,
    only_middle: Annotated[bool, typer.Option("--only-middle", help="Control the middle block only.")] = False,
    unlock_decoder: Annotated[bool, typer.Option("--unlock-decoder", help="Train the base's decoder too.")] = False,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings; other options override it.", show_default=False)
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE, any setting of --list-settings. Repeatable.", show_default=False),
    ] = None,
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    condition_column: ConditionColumn = None,
    condition_folder: ConditionFolder = None,
    resume: Annotated[
        str | None,
        typer.Option(help="Folder of a run to resume, its latest checkpoint, or 'latest'.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what the run would take, and exit.")] = False,
    list_settings: Annotated[
        bool,
        typer.Option(
            "--list-settings",
            help="List every setting of --set and YAML, and exit.",
            callback=_list_settings,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Train a control. The same command again resumes an unfinished run."""
    flags = {
        "data": data,
        "condition": condition,
        "base": base,
        "out": out,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "resolution": resolution,
        "buckets": buckets or None,
        "checkpoint_every": checkpoint_every,
        "seed": seed,
        "only_middle": only_middle or None,
        "unlock_decoder": unlock_decoder or None,
        "image_column": image_column,
        "caption_column": caption_column,
        "condition_column": condition_column,
        "condition_folder": condition_folder,
    }
    given = {name: value for name, value in flags.items() if value is not None} | _parsed(settings or [])
    if base is not None:
        check_model(base, "base")
    settled = _settled(given, config, resume, dry_run)
    if dry_run:
        _print_plan(settled)
    else:
        _run(settled)


def _settled(given: dict[str, Any], config: Path | None, resume: str | None, dry_run: bool) -> TrainConfig:
    """The run's config: that of a file or of a run, overridden by what is given."""
    from tether.training.config import CONFIG, TrainConfig
    from tether.training.resume import find_run

    if resume is not None and config is not None:
        raise TetherError(
            "--resume goes on with the run's own settings: leave --config out, and change single ones by --set"
        )
    if resume is not None:
        folder = find_run(resume, Path(given["out"]) if "out" in given else None)
        return TrainConfig.load(folder / CONFIG, **{**given, "out": folder})
    if config is not None:
        return TrainConfig.load(config, **given)
    if "out" not in given and dry_run:
        given["out"] = Path("dry-run")  # nothing is written there
    if "out" not in given:
        raise TetherError("no folder for the run: give --out RUN")
    return TrainConfig.of(given)


def _run(config: TrainConfig) -> None:
    from accelerate import PartialState

    from tether.cli.progress import training_line
    from tether.training import run

    with training_line() as line:
        result = run.train(config, on_progress=line.on_progress, on_stage=line.on_stage, on_note=line.on_note)
    outcome = result.outcome
    appeared = "" if outcome.appeared_at is None else f" (control appeared at step {outcome.appeared_at})"
    ended = f"{outcome.reason} after {outcome.step} steps{appeared}: the control is in {result.control}"
    if result.control is None:
        ended = f"stopped at step {outcome.step}, a checkpoint is written: run the same command again to resume"
    if PartialState().is_main_process:
        print(ended)
    if result.control is None:
        raise typer.Exit(130)


def _parsed(settings: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` texts, their values read as YAML."""
    import yaml

    parsed = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise TetherError(f"--set {text}: expected NAME=VALUE, as ema=0.999")
        try:
            parsed[name] = yaml.safe_load(value)
        except (yaml.YAMLError, RecursionError, ValueError):
            raise TetherError(f"--set {text}: the value is not valid YAML") from None
    return parsed


def _print_plan(config: TrainConfig) -> None:
    """Prints what a run would take."""
    from tether.training.run import dry_run

    plan = dry_run(config)
    print(f"parameters trained  {plan.trained / 1e6:.1f} M")
    print(f"parameters locked   {plan.locked / 1e6:.1f} M")
    if plan.data is not None:
        print(f"data                {plan.data.samples} samples of {config.data}")
        print(f"conditions          {plan.data.conditions}")
        if plan.data.buckets:
            print(f"buckets             {plan.data.buckets}")
    print(f"steps               {plan.steps} ({plan.samples} samples)")
    print(f"memory, estimated   {plan.total_memory / 1e9:.2f} GB")
    for what, size in plan.memory.items():
        print(f"  {what:18}{size / 1e9:.2f} GB")
    print(f"time, estimated     {plan.seconds / 3600:.2f} h ({plan.seconds_a_step:.2f} s per step)")
    for note in () if plan.data is None else plan.data.notes:
        print(f"note: {note}")
