"""`tether generate --again`: an image is repeated from its own metadata."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from PIL import Image, ImageChops

from tether.cli.generate import draw_sheet, drawn_with_progress, new_session
from tether.cli.options import GenerateOptions, is_given
from tether.cli.output import print_drawn, write_drawn
from tether.cli.progress import loading
from tether.cli.requests import check_models, check_output
from tether.cli.sources import check_input
from tether.errors import TetherError

if TYPE_CHECKING:
    from tether.sampling import Request

__all__ = ["places", "repeat"]

WITH_AGAIN = {"again", "base", "models", "out", "grid", "as_json", "preview", "device", "engine", "low_memory"}
"""The options that do not change what a repeated image shows, except for rounding."""


def repeat(context: typer.Context, options: GenerateOptions, again: Path) -> None:
    """Repeats an image; its PNG carries the text of the first, unless models, device, engine or memory differ.

    Raises:
        TetherError: for options that change the image, and for models that are not found.
        typer.Exit: with 1, when the image differs.
    """
    _refuse_others(context)
    for folder in options.models or []:
        if is_given(context, "models") and not folder.is_dir():
            raise TetherError(f"--models {folder} is not a folder: expected a folder of models")
    check_input(again, "a PNG that Tether wrote")
    check_models(options)
    check_output(options, [again])
    from tether.images import open_image, read_metadata
    from tether.sampling.request import read_request

    request = read_request(again)
    moved = _moved(request, options, again)
    session = new_session()
    with loading():
        prepared = session.prepare(moved)
    drawn, seconds = drawn_with_progress(session, prepared, options.preview)
    one = drawn[request.index]
    if moved == request:
        one = replace(one, metadata=read_metadata(again))
    path = write_drawn(one, request.prompt, options.out)
    print_drawn(path, one, request.prompt, seconds / len(drawn) if options.as_json else None)
    if options.grid:
        alone = request.for_image(request.index)
        draw_sheet([[entry.conditions] for entry in alone.controls], [one.image], alone, options)
    first = open_image(again)
    if one.image.tobytes() != first.tobytes():
        made_by = ", ".join(f"{name} {number}" for name, number in request.versions.items()) or "other versions"
        print(
            f"{again}: the image differs by up to {_difference(one.image, first)} of 255: it was made with "
            "other weights, together with other images (tether serve, tether evaluate --batch-size), or with "
            f"{made_by}",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def _difference(first: Image.Image, second: Image.Image) -> int:
    """The largest difference of a channel of two images of one size, or 255."""
    if first.size != second.size:
        return 255
    return max(int(high) for _, high in ImageChops.difference(first, second.convert(first.mode)).getextrema())  # type: ignore[union-attr]


def _moved(request: Request, options: GenerateOptions, again: Path) -> Request:
    """The request with the base and device that are asked for, and with models where they are now."""
    from tether.sampling.moved import find_moved

    changes = {"device": options.device, "engine": options.engine, "base": options.base}
    given = {name: value for name, value in changes.items() if value is not None}
    low_memory = options.low_memory or request.low_memory
    asked = request.model_copy(update=given | {"low_memory": low_memory})
    found = find_moved(asked, places(asked, again, options.models or []), lambda line: print(line, file=sys.stderr))
    # What is drawn with something else gets fingerprints and versions of its own.
    return found if found == request else found.model_copy(update={"fingerprints": {}, "versions": {}})


def places(request: Request, again: Path, models: list[Path]) -> list[Path]:
    """The folders in which moved models are looked for: those that are given, the image's own, those where the models
    were, the working directory, and the hub's cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    refs = [request.base, request.vae, *request.loras, *request.embeddings, *(one.ref for one in request.controls)]
    before = [_nearest(Path(ref)) for ref in refs if ref]
    found = [*models, again.parent, *before, Path(), Path(HF_HUB_CACHE)]
    too_wide = {Path(Path.cwd().anchor), Path.home().resolve()} - {path.resolve() for path in models}
    every = {path.resolve(): path for path in found if path.is_dir()}
    return [path for resolved, path in every.items() if resolved not in too_wide]


def _nearest(path: Path) -> Path:
    """The nearest folder above a path that exists."""
    try:
        return next(one for one in path.absolute().parents if one.is_dir())
    except OSError:  # a name too long for a file
        return Path()


def _refuse_others(context: typer.Context) -> None:
    """Everything that an image is made from comes from the image that is repeated."""
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in WITH_AGAIN and is_given(context, name):
            raise TetherError(f"{parameter.opts[0]} changes the image: leave it out beside --again")
