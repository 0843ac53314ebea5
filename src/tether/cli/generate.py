"""`tether generate`: a prompt and control images in, PNGs out."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from tether.cli.options import GenerateOptions, is_given, with_options
from tether.cli.output import print_drawn, write_drawn, write_sheet
from tether.cli.progress import loading, step_bar
from tether.cli.requests import PREVIEW, folders_of, prompts_of, request_of
from tether.cli.sources import made_by
from tether.cli.words import unknown_words
from tether.errors import TetherError
from tether.files.atomic import make_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from PIL import Image

    from tether.base import Base
    from tether.sampling import Drawn, Request, Session, Step

__all__ = ["draw_sheet", "drawn_with_progress", "generate", "listener", "new_session"]


@with_options(GenerateOptions)
def generate(context: typer.Context, options: GenerateOptions) -> None:
    """Generate images from a prompt, inside the lines of control images."""
    options = _with_prompt(options)
    asked = [options.prompt is not None, options.prompts is not None, options.again is not None]
    folders = folders_of(options)
    if sum(asked) > 1:
        raise TetherError("give only one of a prompt, --prompts FILE and --again FILE.png")
    if not any(asked) and not folders:
        raise TetherError("give a prompt, or --again FILE.png to repeat an image, or --prompts FILE")
    if options.again is not None:
        from tether.cli.again import repeat

        repeat(context, options, options.again)
        return
    if options.models and is_given(context, "models"):
        raise TetherError("--models is for --again: leave it out")
    if folders:
        from tether.cli.folder import draw_folders

        draw_folders(options, folders)
        return
    prompts = prompts_of(options)
    first = request_of(options, prompts[0])
    session = new_session()
    with loading():
        prepared = session.prepare(first)
        said = unknown_words(session.open(prepared).base, prompts)
    if options.seed is None:
        print(f"seed {first.seed}", file=sys.stderr)
    if said is not None:
        print(said, file=sys.stderr)
    for prompt in prompts:
        _draw(session, prepared.model_copy(update={"prompt": prompt}), options)


def _with_prompt(options: GenerateOptions) -> GenerateOptions:
    """The options with `--prompt` as the prompt."""
    if options.prompt_option is None:
        return options
    if options.prompt is not None:
        raise TetherError("the prompt is given twice: leave --prompt out")
    return replace(options, prompt=options.prompt_option, prompt_option=None)


def _draw(session: Session, request: Request, options: GenerateOptions) -> None:
    """Generates and writes the images of one prompt."""
    from tether.sampling.session import one_at_a_time

    images: list[Image.Image] = []
    for part in one_at_a_time(request):
        drawn, seconds = drawn_with_progress(session, part, options.preview)
        paths = [write_drawn(one, request.prompt, options.out) for one in drawn]
        for path, one in zip(paths, drawn, strict=True):
            print_drawn(path, one, request.prompt, seconds / len(drawn) if options.as_json else None)
        images += [one.image for one in drawn]
    if options.grid:
        rows = [[entry.photos or entry.conditions, entry.conditions] for entry in request.controls]
        draw_sheet(rows, images, request, options)


def new_session() -> Session:
    """A session that tells each line once, on standard error."""
    from tether.sampling import Session

    said: set[str] = set()

    def notify(line: str) -> None:
        """Each line once: with --low-memory, every image is a run of its own."""
        if line not in said:
            said.add(line)
            print(line, file=sys.stderr)

    return Session(notify=notify)


def drawn_with_progress(session: Session, request: Request, preview: Path | None = None) -> tuple[list[Drawn], float]:
    """Draws a prepared request with a progress bar; the images and the seconds without loading."""
    with loading():
        pipeline = session.open(request)
    started = time.perf_counter()
    with listener(pipeline.base, preview) as on_step:
        return session.draw(request, on_step=on_step), time.perf_counter() - started


@contextmanager
def listener(base: Base, preview: Path | None) -> Iterator[Callable[[Step], None] | None]:
    """What is called after each step: the bar, and a preview if one is asked for."""
    with step_bar() as bar:
        if preview is None:
            yield bar
            return
        from tether.images import contact_sheet, save_png
        from tether.sampling.preview import LatentPreview

        make_folder(preview.parent)
        look, factor = LatentPreview(base), base.latent_factor

        def on_step(step: Step) -> None:
            if bar is not None:
                bar(step)
            seen = [one.resize((one.width * factor, one.height * factor)) for one in look(step.denoised)]
            save_png(contact_sheet([seen]), preview, made_by(PREVIEW))

        yield on_step


def draw_sheet(
    controls: list[list[list[Image.Image]]], images: list[Image.Image], request: Request, options: GenerateOptions
) -> None:
    """A contact sheet: a row a control, its images first, then the results.

    Where a control has several images, each has a row of its own, and the results stand below their own.
    """
    from tether.images import contact_sheet

    if any(len(given) > 1 for control in controls for given in control):
        above = [given if len(given) > 1 else given * len(images) for control in controls for given in control]
        sheet = contact_sheet([*above, images])
    else:
        rows = [[given for (given,) in control] for control in controls]
        sheet = contact_sheet([[*row, *images] for row in rows] or [images])
    path = write_sheet(sheet, request.prompt, request.seeds[0], options.out)
    print(path, file=sys.stderr if options.as_json else sys.stdout)
