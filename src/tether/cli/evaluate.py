"""`tether evaluate`: how well controls are followed, on held-out pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tether.cli.arguments import parse_sides, parse_size, parse_weighting
from tether.cli.options import ConditionColumn, ConditionFolder, ImageColumn
from tether.cli.sources import check_control, check_folder, check_model, check_replaceable, made_by
from tether.errors import TetherError
from tether.files.atomic import atomic_write, make_folder

if TYPE_CHECKING:
    from tether.evaluation.cases import HeldOut
    from tether.evaluation.contrast import Contrast
    from tether.evaluation.drawing import Arm
    from tether.evaluation.run import Evaluation
    from tether.sampling import Pipeline, Request

__all__ = ["evaluate"]

EXACT = ("depth", "normal", "seg", "openpose")
"""Kinds that only `scenes` has maps of, of the sets that come with the package."""
MADE_BY = "tether evaluate"


def evaluate(
    controls: Annotated[list[str], typer.Argument(help="Shipped controls or paths; several steer together.")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Held-out pictures: emoji3d, scenes, circles, or a folder, .tar, .parquet, .jsonl or .csv. "
            "Repeatable. By default emoji3d and scenes, or scenes alone where the maps must be exact.",
            show_default=False,
        ),
    ] = None,
    count: Annotated[int, typer.Option(help="Number of held-out conditions, shared between the sets.", min=2)] = 50,
    images: Annotated[int, typer.Option(help="Pictures a condition; 2 or more for diversity.", min=1, max=100)] = 1,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="Kind of the conditions, where a control does not say; one a control, in order. Repeatable.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first picture.", min=0)] = 0,
    steps: Annotated[int, typer.Option(help="Denoising steps.", min=1, max=1000)] = 20,
    guidance_scale: Annotated[float, typer.Option(help="Scale of classifier-free guidance.")] = 5.0,
    scheduler: Annotated[str, typer.Option(help="As in tether generate.")] = "dpmpp-2m",
    strength: Annotated[str, typer.Option(help="Of every control: a number, or a schedule: 0.2@0-0.3,1@0.3-1.")] = "1",
    sides: Annotated[
        str | None,
        typer.Option(help="CFG branches that controls act on, as in tether generate.", show_default=False),
    ] = None,
    weighting: Annotated[str, typer.Option(help="Weights of the controls' layers.")] = "balanced",
    alone: Annotated[bool, typer.Option("--alone", help="Of several controls, draw with each alone too.")] = False,
    annotate: Annotated[
        bool, typer.Option("--annotate", help="Make conditions from the images, also where a set brings some.")
    ] = False,
    image_column: ImageColumn = None,
    condition_column: ConditionColumn = None,
    condition_folder: ConditionFolder = None,
    batch_size: Annotated[
        int, typer.Option(help="Pictures drawn at once: faster, and within a level of 255 of one by one.", min=1)
    ] = 1,
    split: Annotated[
        str | None,
        typer.Option(help="Split of a folder or table; by default test, else validation.", show_default=False),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT; by default the base's own.", show_default=False)
    ] = None,
    base: Annotated[str, typer.Option(help="As in tether generate.")] = "tether",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="Where to compute.")] = "cpu",
    clip: Annotated[
        str | None,
        typer.Option(help="A CLIP model, folder or hub: adds the CLIP score.", show_default=False),
    ] = None,
    contrast: Annotated[
        str | None,
        typer.Option(
            help="tether, the shipped contrastive model, or the folder of one of recipes/contrast.py: adds "
            "picture-text agreement and the Frechet distance to the held-out pictures.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the pictures; those that are there are not drawn again.")
    ] = Path("out/evaluate"),
    as_json: Annotated[
        Path | None, typer.Option("--json", help="File for all scores and numbers.", show_default=False)
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(help="PNG of the best, median and worst pictures.", show_default=False),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace --json and --sheet also where others wrote them.")
    ] = False,
) -> None:
    """Measure how well controls are followed: draw held-out conditions, find them again, compare.

    Every condition is drawn with the controls and at strength 0, with the same seeds.
    """
    steering: dict[str, Any] = {"strength": _number(strength), "weighting": parse_weighting(weighting)}
    if sides is not None:
        steering["sides"] = parse_sides(sides)
    wanted = None if size is None else parse_size(size)
    for ref in controls:
        check_control(ref)
    check_model(base, "base")
    if clip is not None:
        check_model(clip, "CLIP model")
    _check_files(out, as_json, sheet, force)
    if kind is not None and len(kind) != len(controls):
        raise TetherError(f"{len(controls)} controls need as many --kind, not {len(kind)}")
    if alone and len(controls) < 2:
        raise TetherError("--alone has nothing to act on: it needs several controls")

    from tether.cli.progress import count_bar, loading
    from tether.datasets.names import Reading
    from tether.evaluation.cases import held_out_cases, open_held_out
    from tether.evaluation.contrast import load_contrast
    from tether.evaluation.drawing import Artist
    from tether.evaluation.run import evaluate as run
    from tether.sampling import Request, Session
    from tether.sampling.checks import check_size

    template = Request(
        prompt="",
        base=base,
        dtype=dtype,  # type: ignore[arg-type]
        device=device,
        steps=steps,
        guidance_scale=guidance_scale,
        scheduler=scheduler,
    )
    steered = _steered(template, controls, steering)
    session = Session(notify=lambda line: print(line, file=sys.stderr))
    with loading():
        model = None if contrast is None else load_contrast(contrast)
        words = _words(clip, model)
        pipeline = session.open(steered)
    kinds = _kinds(controls, pipeline, kind)
    side = pipeline.base.sample_size
    drawn_size = wanted or (side, side)
    check_size(pipeline.base, drawn_size)
    names = data or (["scenes"] if set(kinds) & set(EXACT) else ["emoji3d", "scenes"])
    reading = Reading(
        split=split,
        image_column=image_column,
        condition_column="none" if annotate else condition_column,
        condition_folder=condition_folder,
    )
    sets = [open_held_out(name, max(drawn_size), reading) for name in names]
    with count_bar("preparing conditions") as on_progress:
        cases = held_out_cases(sets, kinds, drawn_size, count, use_given=not annotate, on_progress=on_progress)
    _say_what(sets, len(cases), count)
    if model is not None and len(cases) < 2:
        raise TetherError("--contrast needs two conditions or more, for a Frechet distance")
    arms = _arms(controls, kinds, steering, alone)
    artist = Artist(session, template, out, batch_size)
    with count_bar("drawing and measuring") as on_progress:
        found = run(cases, arms, artist, kinds, images=images, seed=seed, words=words, on_progress=on_progress)
    settings = {
        "controls": controls,
        "kinds": kinds,
        "data": [{"set": one.ref, "split": one.split} for one in sets],
        "count": len(cases),
        "images": images,
        "batch_size": batch_size,
        "seed": seed,
        "size": list(drawn_size),
        **{name: value for name, value in template.model_dump(mode="json").items() if name in _DRAWN},
        **steering,
    }
    distances = {} if model is None else {arm.name: _distance(model, found, arm.name) for arm in arms}
    _write(found, arms, kinds, settings, distances, as_json, sheet)


def _distance(model: Contrast, found: Evaluation, arm: str) -> float:
    """The Frechet distance of an arm's pictures to the held-out ones."""
    from tether.images import open_image

    drawn = (open_image(path) for paths in found.pictures[arm] for path in paths)
    return model.distance(drawn, (case.image for case in found.cases))


_DRAWN = ("base", "dtype", "device", "steps", "guidance_scale", "scheduler")


def _check_files(out: Path, as_json: Path | None, sheet: Path | None, force: bool) -> None:
    """Refuses outputs that cannot be written, or would replace what is not ours, before anything is drawn."""
    check_folder(out)
    files = [(option, path) for option, path in (("--json", as_json), ("--sheet", sheet)) if path is not None]
    for option, path in files:
        for other, beside in [*files, ("--out", out)]:
            if other != option and path.resolve() in (beside.resolve(), *beside.resolve().parents):
                raise TetherError(f"{option} {path} is in the way of {other} {beside}: give another name")
    if sheet is not None:
        check_replaceable(sheet, "evaluate", "--sheet", force=force)
        check_folder(sheet.parent, "--sheet")
    if as_json is not None:
        if as_json.is_dir():
            raise TetherError(f"--json {as_json} is a folder: give the name of a file")
        if as_json.exists() and not force and not _is_ours(as_json):
            raise TetherError(f"--json {as_json} exists, and `tether evaluate` did not write it: give another name")
        check_folder(as_json.parent, "--json")


def _is_ours(path: Path) -> bool:
    """Whether a file is the JSON of this command."""
    if not path.is_file():  # reading a pipe would wait for ever
        return False
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(read, dict) and read.get("made_by") == MADE_BY


def _number(text: str) -> float | str:
    """A number, or the text of a schedule, which the request reads."""
    try:
        return float(text)
    except ValueError:
        return text


def _steered(template: Request, controls: list[str], steering: dict[str, Any]) -> Request:
    """The request with controls that have no map yet.

    Raises:
        TetherError: when they cannot be steered like that.
    """
    from PIL import Image

    from tether.sampling import ControlRequest

    some = Image.new("RGB", (8, 8))
    entries = [ControlRequest(ref=one, condition=some, **steering) for one in controls]
    return template.model_copy(update={"controls": entries})


def _kinds(controls: list[str], pipeline: Pipeline, given: list[str] | None) -> list[str]:
    """The kind of each control's conditions.

    Raises:
        TetherError: for a control that does not say, an unknown --kind, and two controls of one kind.
    """
    from tether.kinds import find_kind, kind_of

    named = given or [control.kind for control in pipeline.controls]
    kinds = [None if one is None else (kind_of if given else find_kind)(one).name for one in named]
    for ref, one in zip(controls, kinds, strict=True):
        if one is None:
            raise TetherError(f"control {ref} does not say what its conditions are: give --kind for each control")
    if len(set(kinds)) != len(kinds):
        raise TetherError(f"two controls are of one kind ({', '.join(map(str, kinds))}): evaluate them one by one")
    return [str(one) for one in kinds]


def _arms(controls: list[str], kinds: list[str], steering: dict[str, Any], alone: bool) -> list[Arm]:
    """Strength 0, all controls together, and each alone."""
    from tether.evaluation.drawing import Arm, Steering
    from tether.evaluation.run import STRENGTH_0

    steered = [Steering(ref, one, steering) for ref, one in zip(controls, kinds, strict=True)]
    arms = [Arm(STRENGTH_0), Arm(" + ".join(kinds), tuple(steered))]
    if alone and len(steered) > 1:
        arms += [Arm(f"{one.kind} alone", (one,)) for one in steered]
    return arms


def _words(clip: str | None, contrast: Contrast | None) -> list[Any]:
    """Further measures of a picture and its prompt."""
    from tether.evaluation.clip import CLIP, ClipScore
    from tether.evaluation.contrast import CONTRAST

    found: list[Any] = [] if clip is None else [(CLIP, ClipScore(clip))]
    return found if contrast is None else [*found, (CONTRAST, contrast.agreement)]


def _say_what(sets: list[HeldOut], found: int, asked: int) -> None:
    for one in sets:
        print(f"{one.ref}: {one.split}", file=sys.stderr)
    if found < asked:
        print(f"there are only {found} conditions to measure, not {asked}", file=sys.stderr)


def _write(
    found: Evaluation,
    arms: list[Arm],
    kinds: list[str],
    settings: dict[str, Any],
    distances: dict[str, float],
    as_json: Path | None,
    sheet: Path | None,
) -> None:
    """Writes JSON and sheet, and prints the table with their names."""
    from tether.evaluation.report import notes, report, table

    if as_json is not None:
        numbers = {"made_by": MADE_BY} | report(found, settings)
        numbers |= {"frechet_distances": distances} if distances else {}
        with atomic_write(as_json, parents=True) as part:
            part.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    if sheet is not None:
        from tether.evaluation.sheet import draw_sheet
        from tether.images import save_png

        make_folder(sheet.parent)
        save_png(draw_sheet(found, arms[1].name, kinds), sheet, made_by("evaluate"))
    rows = table(found, [arm.name for arm in arms])
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()
    for line in notes(found):
        print(line)
    if distances:
        said = ", ".join(f"{arm} {distance:.3g}" for arm, distance in distances.items())
        print(f"Frechet distance to the held-out pictures, by the contrastive model, at this count alone: {said}")
    for path in (as_json, sheet):
        if path is not None:
            print(path)
