"""`tether generate`: a prompt and control images in, PNGs out."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from tether.cli.arguments import (
    as_utf8,
    parse_control,
    parse_seeds,
    parse_sides,
    parse_size,
    parse_weighting,
    refuse_other_bytes,
)
from tether.cli.options import GenerateOptions, with_options
from tether.cli.output import free_path, slug, write_drawn
from tether.errors import TetherError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from PIL import Image

    from tether.base import Base
    from tether.sampling import Drawn, Request, Session, Step

__all__ = ["drawn_with_progress", "generate"]

WITH_AGAIN = {"again", "out", "grid", "as_json", "preview", "device", "low_memory"}
"""The options that do not change what a repeated image shows, except for rounding."""
AS_GIVEN = (
    "negative_prompt",
    "count",
    "steps",
    "guidance_scale",
    "scheduler",
    "spacing",
    "sigmas",
    "eta",
    "guidance_rescale",
    "fit",
    "denoising_strength",
    "base",
    "vae",
    "prediction_type",
    "clip_skip",
    "device",
    "dtype",
    "low_memory",
)
"""The options that are fields of a request as they are."""


@with_options(GenerateOptions)
def generate(context: typer.Context, options: GenerateOptions) -> None:
    """Generate images from a prompt, inside the lines of control images."""
    if (options.prompt is None) == (options.again is None):
        raise TetherError("give a prompt, or --again FILE.png to repeat an image")
    if options.again is not None:
        _refuse_beside_again(context)
        _repeat(options, options.again)
        return
    request = _request(options)
    _check_out(options.out)

    from tether.sampling.session import one_at_a_time

    session = _session()
    request = session.prepare(request)
    images: list[Image.Image] = []
    for part in one_at_a_time(request):
        drawn, seconds = drawn_with_progress(session, part, options.preview)
        for one in drawn:
            write_drawn(one, request.prompt, options.out, seconds / len(drawn) if options.as_json else None)
        images += [one.image for one in drawn]
    if options.grid:
        _write_sheet(
            [[one.photo or one.condition, one.condition] for one in request.controls], images, request, options
        )


def _repeat(options: GenerateOptions, again: Path) -> None:
    """Repeats an image; its PNG carries the request of the first, unless device or memory differ."""
    from tether.images import open_image
    from tether.sampling.request import METADATA_KEY, read_request, request_text

    request = read_request(again)
    _check_out(options.out)
    moved = request.model_copy(
        update={
            "device": options.device or request.device,
            "low_memory": options.low_memory or request.low_memory,
        }
    )
    drawn, seconds = drawn_with_progress(_session(), moved, options.preview)
    one = drawn[request.index]
    if (moved.device, moved.low_memory) == (request.device, request.low_memory):
        one = replace(one, metadata={METADATA_KEY: request_text(again)})
    write_drawn(one, request.prompt, options.out, seconds / len(drawn) if options.as_json else None)
    if one.image.tobytes() != open_image(again).tobytes():
        made_by = ", ".join(f"{name} {number}" for name, number in request.versions.items()) or "other versions"
        print(f"{again}: the image differs: it was made with other weights, or with {made_by}", file=sys.stderr)
    if options.grid:
        _write_sheet([[entry.condition] for entry in request.controls], [one.image], request, options)


def _request(options: GenerateOptions) -> Request:
    """The request of the options; images are opened and not yet fitted.

    Raises:
        TetherError: when an option cannot be right.
    """
    entries = [("photo", text) for text in options.control or []]
    entries += [("condition", text) for text in options.condition or []]
    controls = [(field, parse_control(text)) for field, text in entries]
    steering = _given(
        weighting=None if options.weighting is None else parse_weighting(options.weighting),
        sides=None if options.sides is None else parse_sides(options.sides),
        mask_resize=options.mask_resize,
    )
    masks = _control_masks(options, len(controls))
    values = _given(**{name: getattr(options, name) for name in AS_GIVEN})
    values |= _given(
        guidance_scale=options.older_guidance,
        denoising_strength=options.older_denoise,
        negative_prompt=options.older_negative,
        seed=None if options.seed is None else parse_seeds(options.seed),
        size=None if options.size is None else parse_size(options.size),
        loras=options.lora,
        embeddings=options.embedding,
    )
    if isinstance(values.get("seed"), list):
        if options.count not in (None, 1):
            raise TetherError("--seed already names every image: leave --count out")
        values["count"] = len(values["seed"])
    refuse_other_bytes(
        [options.prompt or "", values.get("negative_prompt", ""), values.get("base", ""), options.vae or ""]
        + [one.ref for _, one in controls]
        + [*(options.lora or []), *(options.embedding or [])]
    )

    from tether.images import open_image
    from tether.sampling.request import ControlRequest, Request

    return Request(
        prompt=options.prompt or "",
        controls=[
            ControlRequest(
                ref=one.ref,
                source=as_utf8(one.image.name),
                strength=one.strength,
                window=one.window,
                mask=mask and open_image(mask),
                **{field: open_image(one.image)},
                **steering,
            )
            for (field, one), mask in zip(controls, masks, strict=True)
        ],
        init=None if options.init is None else open_image(options.init),
        mask=None if options.mask is None else open_image(options.mask),
        **values,
    )


def _control_masks(options: GenerateOptions, controls: int) -> list[Path | None]:
    """The file of each control's mask, if it has one.

    Raises:
        TetherError: when there are not as many masks as controls, or nothing that an option acts on.
    """
    masks = options.control_mask or []
    if options.mask_resize is not None and not masks:
        raise TetherError("--mask-resize is for --control-mask: give one, or leave it out")
    if masks and not controls:
        raise TetherError("--control-mask is for controls: give --control or --condition, or leave it out")
    if len(masks) not in (0, 1, controls):
        raise TetherError(f"{controls} controls need one --control-mask, or {controls}, not {len(masks)}")
    return [*masks] if len(masks) == controls else [masks[0] if masks else None] * controls


def _given(**values: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def _session() -> Session:
    from tether.sampling import Session

    said: set[str] = set()

    def notify(line: str) -> None:
        """Each line once: with --low-memory, every image is a run of its own."""
        if line not in said:
            said.add(line)
            print(line, file=sys.stderr)

    return Session(notify=notify)


def drawn_with_progress(session: Session, request: Request, preview: Path | None = None) -> tuple[list[Drawn], float]:
    """Runs a request with a progress bar; the images and the seconds without loading."""
    pipeline = session.open(request)
    started = time.perf_counter()
    with _listener(pipeline.base, preview) as on_step:
        return session.run(request, on_step=on_step), time.perf_counter() - started


@contextmanager
def _listener(base: Base, preview: Path | None) -> Iterator[Callable[[Step], None] | None]:
    """What is called after each step: the bar, and a preview if one is asked for."""
    from tether.cli.progress import step_bar

    with step_bar() as bar:
        if preview is None:
            yield bar
            return
        from tether.images import contact_sheet, save_png
        from tether.sampling.preview import LatentPreview

        look, factor = LatentPreview(base), base.latent_factor

        def on_step(step: Step) -> None:
            if bar is not None:
                bar(step)
            seen = [one.resize((one.width * factor, one.height * factor)) for one in look(step.denoised)]
            save_png(contact_sheet([seen]), preview, {})

        yield on_step


def _write_sheet(rows: list[list[Any]], images: list[Image.Image], request: Request, options: GenerateOptions) -> None:
    """A contact sheet: a row a control, its images first, then the results."""
    from tether.images import contact_sheet, save_png

    path = free_path(options.out, f"{slug(request.prompt)}-{request.seeds[0]}-sheet")
    save_png(contact_sheet([[*row, *images] for row in rows] or [images]), path, {})
    print(path, file=sys.stderr if options.as_json else sys.stdout)


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise TetherError(f"--out {out} is a file: give a folder")


def _refuse_beside_again(context: typer.Context) -> None:
    """Everything that an image is made from comes from the image that is repeated."""
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name not in WITH_AGAIN and source is not None and source.name == "COMMANDLINE":
            raise TetherError(f"{parameter.opts[0]} changes the image: leave it out beside --again")
