"""`tether dataset`: build, show and check training data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tether.cli.options import CaptionColumn, ConditionColumn, ConditionFolder, ImageColumn
from tether.cli.sources import check_folder, check_replaceable, made_by
from tether.errors import TetherError
from tether.files.atomic import make_folder

__all__ = ["app"]

app = typer.Typer(help="Build, show and check training data.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def build(
    source: Annotated[
        str,
        typer.Argument(help="Folder, .tar, .parquet, .jsonl, .csv or prompt.json; or emoji3d, scenes or circles."),
    ],
    out: Annotated[Path, typer.Argument(help="Folder to build in; an unfinished dataset there is continued.")],
    condition: Annotated[
        str, typer.Option(help="Kind of condition: canny, ...; scenes has exact depth, normal, seg and openpose too.")
    ] = "canny",
    size: Annotated[int, typer.Option(help="Shorter side in pixels; larger images are reduced to it.")] = 512,
    count: Annotated[
        int | None, typer.Option(help="Number of samples of emoji3d, scenes or circles.", show_default=False)
    ] = None,
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    condition_column: ConditionColumn = None,
    condition_folder: ConditionFolder = None,
    captions: Annotated[
        str,
        typer.Option(help="Of several captions: one at random each time, or all joined; none: train without captions."),
    ] = "one",
    split: Annotated[
        str | None, typer.Option(help="Split to read, or all; by default train.", show_default=False)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; by default one a core. 0: none but this one.", show_default=False)
    ] = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="Spread the work over a cluster of Ray, with --workers actors: docs/scale.md.")
    ] = False,
) -> None:
    """Annotate, check and pack images; unusable ones are listed with their reasons."""
    check_folder(out, "OUT")
    from tether.cli.progress import count_bar
    from tether.datasets.build import QUARANTINE, build_dataset, describe_conditions
    from tether.datasets.names import Reading

    reading = Reading(image_column, caption_column, condition_column, condition_folder, captions, split)  # type: ignore[arg-type]

    with count_bar("building") as on_progress:
        manifest = build_dataset(
            source,
            out,
            condition,
            size=size,
            count=count,
            workers=workers,
            ray=ray,
            reading=reading,
            on_progress=on_progress,
        )
    print(f"conditions: {describe_conditions(manifest)}")
    print(f"{manifest.samples} samples in {len(manifest.shards)} shards in {out}")
    for what, number in sorted(manifest.left_out.items()):
        print(f"{number} not read: {what}")
    for reason, number in sorted(manifest.quarantined.items()):
        print(f"{number} left out: {reason} (listed in {out / QUARANTINE})")


@app.command()
def show(
    data: Annotated[Path, typer.Argument(help="A built dataset.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="PNG to write; by default DATA.png.", show_default=False)
    ] = None,
    count: Annotated[int, typer.Option(help="Samples to show.", min=1)] = 12,
    force: Annotated[bool, typer.Option("--force", help="Replace any file at --out.")] = False,
) -> None:
    """Draw a contact sheet of images, conditions and captions."""
    beside = data if data.name not in ("", "..") else data.resolve()
    out = out or beside.parent / f"{data.resolve().name}.png"
    check_replaceable(out, "dataset show", force=force)
    check_folder(out.parent)
    from tether.datasets.check import show_dataset
    from tether.images import save_png

    sheet = show_dataset(data, count)
    make_folder(out.parent)
    save_png(sheet, out, made_by("dataset show"))
    print(out)


@app.command()
def check(data: Annotated[Path, typer.Argument(help="A built dataset.")]) -> None:
    """Verify every file and every sample."""
    from tether.datasets.check import check_dataset

    report = check_dataset(data)
    if report.faults:
        first, *others = report.faults
        more = f" (and {len(others)} more)" if others else ""
        raise TetherError(f"{data}: {first}{more}; delete it and build it again")
    print(f"{data}: {report.manifest.samples} samples, all as in the manifest")
