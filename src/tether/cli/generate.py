"""`tether generate`: a prompt and control pictures in, PNGs out."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tether.cli.arguments import (
    as_utf8,
    parse_control,
    parse_lora,
    parse_seeds,
    parse_sides,
    parse_size,
    parse_weighting,
    refuse_other_bytes,
)
from tether.errors import TetherError

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

    from tether.sampling import Pipeline, Step
    from tether.sampling.request import Request

__all__ = ["generate"]

WITH_AGAIN = {"again", "out", "grid", "as_json", "preview", "device", "low_memory"}
"""The options that do not change what a repeated picture shows, but for rounding."""


def generate(
    context: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help="What to draw.", show_default=False)] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(
            help="KIND=IMAGE[:STRENGTH][@START-END]: annotate IMAGE and steer by it. KIND is a shipped control or the "
            "path of one. Repeatable.",
            show_default=False,
        ),
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(help="The same with a ready condition map in place of a photo. Repeatable.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")] = Path("out"),
    seed: Annotated[
        str, typer.Option(help="Seed of the first picture, picture k has seed + k; or one a picture: 7,21,4.")
    ] = "0",
    count: Annotated[int, typer.Option(help="Number of pictures.", min=1, max=1000)] = 1,
    steps: Annotated[int, typer.Option(help="Denoising steps.", min=1, max=1000)] = 20,
    guidance: Annotated[float, typer.Option(help="Scale of classifier-free guidance.")] = 5.0,
    negative: Annotated[str, typer.Option(help="What to keep away from.")] = "",
    scheduler: Annotated[str, typer.Option(help="ddim, dpmpp-2m, unipc, euler, euler-a or lcm.")] = "dpmpp-2m",
    weighting: Annotated[
        str,
        typer.Option(help="balanced, conditional, cfg-rw, released, diffusers, or weights with commas between."),
    ] = "balanced",
    sides: Annotated[
        str | None,
        typer.Option(
            help="Sides of guidance that the control acts on, else the weighting's: both, conditional, or a share from "
            "0 to 1 for the unconditional side; less follows lines closer, and near 0 words less.",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="WIDTHxHEIGHT, multiples of 8; else the base's own.", show_default=False),
    ] = None,
    fit: Annotated[str, typer.Option(help="How pictures of another shape are fitted: stretch, crop or pad.")] = "crop",
    init: Annotated[Path | None, typer.Option(help="Picture to start from.", show_default=False)] = None,
    denoise: Annotated[float, typer.Option(help="How much of --init is drawn anew, above 0 and up to 1.")] = 0.6,
    mask: Annotated[
        Path | None,
        typer.Option(help="White where --init is drawn anew, black where it stays.", show_default=False),
    ] = None,
    base: Annotated[
        str, typer.Option(help="The base: tether (shipped), a diffusers folder, a single file, or a name on the hub.")
    ] = "tether",
    vae: Annotated[str | None, typer.Option(help="Another autoencoder for the base.", show_default=False)] = None,
    prediction_type: Annotated[
        str | None,
        typer.Option(
            help="epsilon or v_prediction, where the base is wrong or silent about what it predicts.",
            show_default=False,
        ),
    ] = None,
    clip_skip: Annotated[int, typer.Option(help="Last layers of the text encoder to leave out.", min=0, max=10)] = 0,
    lora: Annotated[
        list[str] | None, typer.Option(help="REF[:STRENGTH]: a LoRA for the base. Repeatable.", show_default=False)
    ] = None,
    embedding: Annotated[
        list[str] | None,
        typer.Option(help="A textual-inversion embedding; its word is printed. Repeatable.", show_default=False),
    ] = None,
    grid: Annotated[
        bool,
        typer.Option("--grid", help="Also write a contact sheet: source (not with --again), condition, results."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line a picture.")] = False,
    again: Annotated[
        Path | None, typer.Option(help="Repeat a PNG that Tether wrote, to the byte.", show_default=False)
    ] = None,
    preview: Annotated[
        Path | None,
        typer.Option(help="A PNG, written anew after every step, of what is being drawn.", show_default=False),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, mps, ...; else cpu, and with --again the picture's own.", show_default=False),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    low_memory: Annotated[
        bool, typer.Option("--low-memory", help="One picture at a time, in tiles; on a GPU, one network at a time.")
    ] = False,
) -> None:
    """Draw pictures from a prompt, inside the lines of control pictures."""
    if (prompt is None) == (again is None):
        raise TetherError("give a prompt, or --again FILE.png to repeat a picture")
    arguments = [parse_control(text) for text in [*(control or []), *(condition or [])]]
    wanted = parse_size(size) if size else None
    weights, side_or_share = parse_weighting(weighting), None if sides is None else parse_sides(sides)

    from tether.images import contact_sheet, open_image, save_png
    from tether.sampling import SCHEDULERS
    from tether.sampling.request import ControlRequest, Request, read_request

    only: int | None = None
    if again is not None:
        _refuse_beside_again(context)
        request = read_request(again)
        only = request.index
    else:
        named = [one.ref for one in arguments] + [base, vae or "", *(lora or []), *(embedding or [])]
        refuse_other_bytes([prompt or "", negative, *named])
        seeds = parse_seeds(seed)
        if count != 1 and not isinstance(seeds, int):
            raise TetherError("--seed already names every picture: leave --count out")
        request = Request(
            prompt=prompt or "",
            negative_prompt=negative,
            base=base,
            vae=vae,
            loras=lora or [],
            embeddings=embedding or [],
            dtype=_one_of("--dtype", dtype, ("float32", "bfloat16", "float16")),  # type: ignore[arg-type]
            prediction_type=(
                None
                if prediction_type is None
                else _one_of("--prediction-type", prediction_type, ("epsilon", "v_prediction"))  # type: ignore[arg-type]
            ),
            clip_skip=clip_skip,
            controls=[
                ControlRequest(
                    ref=argument.ref,
                    condition=open_image(argument.image),  # as it is; `_fit_pictures` fits it
                    source=as_utf8(argument.image.name),
                    strength=argument.strength,
                    weighting=weights,
                    sides=side_or_share,
                    window=argument.window,
                )
                for argument in arguments
            ],
            seed=seeds,
            count=count if isinstance(seeds, int) else len(seeds),
            steps=steps,
            guidance_scale=guidance,
            scheduler=_one_of("--scheduler", scheduler, tuple(SCHEDULERS)),
            fit=_one_of("--fit", fit, ("stretch", "crop", "pad")),  # type: ignore[arg-type]
            init=None if init is None else open_image(init),
            strength=denoise,
            mask=None if mask is None else open_image(mask),
            versions=versions(),
        )
    request.low_memory = low_memory = low_memory or request.low_memory
    request.device = device or request.device
    for entry in request.controls:
        entry.injection()  # what is wrong is told before a base is loaded
    if out.exists() and not out.is_dir():
        raise TetherError(f"--out {out} is a file: give a folder")
    pipeline = _pipeline(request)
    shown = [[entry.condition] for entry in request.controls]
    if again is None:
        side = pipeline.base.sample_size
        shown = _fit_pictures(request, wanted or (side, side), pipeline, photos=len(control or []))
    requests = _one_a_picture(request) if low_memory and only is None else [request]
    pictures = [
        picture
        for part in requests
        for picture in draw(part, pipeline, out, only=only, preview=preview, as_json=as_json)
    ]
    if again is not None and pictures[0].tobytes() != open_image(again).tobytes():
        told = ", ".join(f"{name} {number}" for name, number in request.versions.items()) or "other versions"
        print(f"{again}: the picture differs: it was drawn by other weights, or with {told}", file=sys.stderr)
    if grid:
        rows = [[*row, *pictures] for row in shown] or [pictures]
        path = free_path(out, f"{slug(request.prompt)}-{request.seeds[0]}-sheet")
        save_png(contact_sheet(rows), path, {})
        print(path, file=sys.stderr if as_json else sys.stdout)


def draw(
    request: Request,
    pipeline: Pipeline,
    out: Path,
    *,
    only: int | None = None,
    preview: Path | None = None,
    as_json: bool = False,
) -> list[Image.Image]:
    """Runs a request, writes its pictures, prints where, and returns them; with `only` just that one."""
    from tether.cli.progress import step_bar
    from tether.images import save_png

    make_folder(out)
    started = time.perf_counter()
    with step_bar() as bar:
        pictures = request.run(pipeline, _on_step(bar, pipeline, preview))
    seconds = time.perf_counter() - started
    kept = [(index, picture) for index, picture in enumerate(pictures) if only in (None, index)]
    for index, picture in kept:
        seed = request.seeds[index]
        path = free_path(out, f"{slug(request.prompt)}-{seed}")
        save_png(picture, path, request.metadata(index))
        if as_json:
            line = {"path": str(path), "seed": seed, "width": picture.width, "height": picture.height}
            line |= {"prompt": request.prompt, "seconds": round(seconds / len(pictures), 3)}
            print(json.dumps(line), flush=True)
        else:
            print(path, flush=True)
    return [picture for _, picture in kept]


def _one_a_picture(request: Request) -> list[Request]:
    """The same pictures, each as a batch of its own."""
    return [request.model_copy(update={"seed": seed, "count": 1}) for seed in request.seeds]


def _on_step(
    bar: Callable[[Step], None] | None, pipeline: Pipeline, preview: Path | None
) -> Callable[[Step], None] | None:
    """What is called after each step: the bar, and a preview where one is wished for."""
    if preview is None:
        return bar
    from tether.images import contact_sheet, save_png
    from tether.sampling.preview import LatentPreview

    look, factor = LatentPreview(pipeline.base), pipeline.base.latent_factor

    def on_step(step: Step) -> None:
        if bar is not None:
            bar(step)
        seen = [one.resize((one.width * factor, one.height * factor)) for one in look(step.denoised)]
        save_png(contact_sheet([seen]), preview, {})

    return on_step


def slug(text: str) -> str:
    """A file name from a prompt."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "picture"


def make_folder(path: Path) -> None:
    """Makes a folder where there is none.

    Raises:
        TetherError: where there cannot be one.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TetherError(f"{path} cannot be a folder for pictures: {error.strerror}") from None


def free_path(folder: Path, stem: str) -> Path:
    """`folder/stem.png`, or the first of `stem-2.png`, `stem-3.png`, ... that is free: nothing is overwritten."""
    path, number = folder / f"{stem}.png", 2
    while path.exists():
        path, number = folder / f"{stem}-{number}.png", number + 1
    return path


def _refuse_beside_again(context: typer.Context) -> None:
    """Everything that a picture is made from comes from the picture that is repeated."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in WITH_AGAIN and source is not None and source.name == "COMMANDLINE":
            raise TetherError(f"--{name.replace('_', '-')} changes the picture: leave it out beside --again")


def _pipeline(request: Request) -> Pipeline:
    """The pipeline that a request needs."""
    import torch

    from tether.base import ControlNet, load_base
    from tether.base.adapters import add_embedding, add_lora
    from tether.base.memory import reduce_memory
    from tether.sampling import Pipeline

    try:
        torch.empty(0, device=request.device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise TetherError(f"there is no device {request.device!r} here: choose another with --device") from None
    where = "cpu" if request.low_memory else request.device
    loaded = load_base(
        request.base,
        vae=request.vae,
        device=where,
        dtype=getattr(torch, request.dtype),
        prediction_type=request.prediction_type,
    )
    if loaded.family != "bundled":
        print(f"{request.base}: {loaded.words}", file=sys.stderr)
    for text in request.loras:
        add_lora(loaded, *parse_lora(text))
    for ref in request.embeddings:
        print(f"{ref}: write {add_embedding(loaded, ref)}", file=sys.stderr)
    if request.low_memory:
        reduce_memory(loaded, request.device)
    at = loaded.unet.device  # where the base's weights are, so that an untrained control shares them
    return Pipeline(
        loaded,
        [ControlNet.load(control.ref, base=loaded, dtype=loaded.dtype, device=at) for control in request.controls],
    )


def _fit_pictures(request: Request, size: tuple[int, int], pipeline: Pipeline, photos: int) -> list[list[Image.Image]]:
    """Fits all of a request's pictures to a size; the first `photos` of its controls are shown photos, to be annotated.

    Returns:
        Source and condition of each control.

    Raises:
        TetherError: for a size that cannot be drawn, and photos for a control that does not say its kind.
    """
    from tether.images import fit
    from tether.kinds import prepare

    pipeline.check_size(*size)  # before anything of that size is made
    request.size = size
    if request.init is not None:
        request.init = fit(request.init, *size, request.fit)
    if request.mask is not None:
        request.mask = fit(request.mask, *size, request.fit)
    shown = []
    for k, (entry, control) in enumerate(zip(request.controls, pipeline.controls, strict=True)):
        kind = control.kind
        if k < photos and kind is None:
            raise TetherError(f"{entry.ref} does not say what its conditions are: annotate first, then use --condition")
        prepared = prepare(entry.condition, kind if k < photos else None, size, fit=request.fit)
        entry.condition = prepared.condition
        shown.append([prepared.photo, prepared.condition])
    return shown


def _one_of(option: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise TetherError(f"{option} {value}: choose one of {', '.join(choices)}")
    return value


def versions() -> dict[str, str]:
    """What a picture's bytes depend on, for its request."""
    from importlib.metadata import version

    return {name: version(name) for name in ("tether-control", "torch", "diffusers")}
