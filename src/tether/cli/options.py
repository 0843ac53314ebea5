"""Options with their help beside them: those of `tether generate`, and those that several commands share.

An option that is not given is None: its default is that of `tether.sampling.request.Request`, which the command line
reads only when it runs. What `--help` shows as defaults is held equal to those by a test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

__all__ = [
    "CaptionColumn",
    "ConditionColumn",
    "ConditionFolder",
    "GenerateOptions",
    "ImageColumn",
    "is_given",
    "with_options",
]

Values = TypeVar("Values")

ImageColumn = Annotated[
    str | None,
    typer.Option(help="Column, key or mark of the images (NAME of a.NAME.png).", show_default=False),
]
CaptionColumn = Annotated[str | None, typer.Option(help="Column or key of the captions.", show_default=False)]
ConditionColumn = Annotated[
    str | None,
    typer.Option(help="Column, key or mark of the given conditions; none: annotate.", show_default=False),
]
ConditionFolder = Annotated[
    str | None,
    typer.Option(help="Folder in the source of the given conditions; none: there is none.", show_default=False),
]


def with_options(cls: type[Values]) -> Callable[[Callable[[typer.Context, Values], None]], Callable[..., None]]:
    """Decorator: a command `(context, values) -> None` whose options are the fields of a dataclass.

    Args:
        cls: a dataclass; each field is annotated as typer's parameters are.
    """
    hints = get_type_hints(cls, include_extras=True)
    kind = Parameter.POSITIONAL_OR_KEYWORD
    parameters = [Parameter("context", kind, annotation=typer.Context)]
    parameters += [
        Parameter(one.name, kind, default=one.default, annotation=hints[one.name])
        for one in fields(cls)  # type: ignore[arg-type]
    ]

    def decorate(function: Callable[[typer.Context, Values], None]) -> Callable[..., None]:
        @wraps(function)
        def command(context: typer.Context, **values: Any) -> None:
            function(context, cls(**values))

        command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in parameters}
        return command

    return decorate


def is_given(context: typer.Context, name: str) -> bool:
    """Whether an option is on the command line, and not only set by its default or an environment variable."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _older(name: str) -> Any:
    """A hidden option under an older name."""
    return typer.Option(name, hidden=True)


@dataclass(frozen=True)
class GenerateOptions:
    """What `tether generate` takes."""

    prompt: Annotated[str | None, typer.Argument(help="What to generate.", show_default=False)] = None
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="A text file of prompts, one a line, instead of one; beside a folder, NAME<TAB>PROMPT.",
            show_default=False,
        ),
    ] = None
    prompt_option: Annotated[
        str | None, typer.Option("--prompt", "-p", help="The prompt, as an option.", show_default=False)
    ] = None
    control: Annotated[
        list[str] | None,
        typer.Option(
            help="KIND=IMAGE[:STRENGTH][@START-END][,NAME=VALUE...]: annotate IMAGE and steer by it. KIND is a shipped "
            "control or the path of one; IMAGE is a file, several with commas between or a pattern (one an image), or "
            "a folder, which is drawn image by image; STRENGTH is a number or a schedule, 0.2@0-0.3,0.6@0.3-1; NAME is "
            "weighting, sides, window, every, tolerance, mask, mask_resize, annotator, kind, invert, or an option of "
            "the annotator. Repeatable.",
            show_default=False,
        ),
    ] = None
    condition: Annotated[
        list[str] | None,
        typer.Option(help="The same with a ready-made condition map instead of a photo. Repeatable."),
    ] = None
    invert: Annotated[
        bool | None,
        typer.Option(
            "--invert/--no-invert",
            help="Whether --condition is dark lines on a light ground; by default, where it looks so.",
            show_default=False,
        ),
    ] = None
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the images, or a file: .png, .jpg or .webp.")] = (
        Path("out")
    )
    seed: Annotated[
        str | None,
        typer.Option(
            help="Seed of the first image, image k has seed + k; or one an image: 7,21,4. By default random, and "
            "printed.",
        ),
    ] = None
    count: Annotated[int | None, typer.Option(help="Number of images.", min=1, max=1000, show_default="1")] = None
    steps: Annotated[int | None, typer.Option(help="Denoising steps.", min=1, max=1000, show_default="20")] = None
    guidance_scale: Annotated[
        float | None, typer.Option(help="Scale of classifier-free guidance.", show_default="5.0")
    ] = None
    negative_prompt: Annotated[str | None, typer.Option(help="What to avoid.")] = None
    scheduler: Annotated[
        str | None,
        typer.Option(help="ddim, dpmpp-2m, unipc, euler, euler-a or lcm.", show_default="dpmpp-2m"),
    ] = None
    spacing: Annotated[
        str | None,
        typer.Option(
            help="How steps are spread over the timesteps: leading, trailing or linspace; by default the base's own."
        ),
    ] = None
    sigmas: Annotated[str | None, typer.Option(help="How noise levels are spread instead: karras or exponential.")] = (
        None
    )
    eta: Annotated[
        float | None, typer.Option(help="Share of noise that ddim adds at each step, 0 to 1.", show_default="0.0")
    ] = None
    guidance_rescale: Annotated[
        float | None,
        typer.Option(help="How much of the contrast of guidance is taken back, 0 to 1.", show_default="0.0"),
    ] = None
    guidance_window: Annotated[
        str | None,
        typer.Option(help="START-END, shares of the steps that are guided; the others take half the work."),
    ] = None
    control_every: Annotated[
        int | None,
        typer.Option(help="Run the controls at every n-th step, and use their signals again between.", min=1),
    ] = None
    control_tolerance: Annotated[
        float | None,
        typer.Option(help="Run the controls by need: when their signals may have changed by more than this share."),
    ] = None
    deep_every: Annotated[
        int | None,
        typer.Option(help="Compute the deep part of the base at every n-th step, and use its features again.", min=1),
    ] = None
    deep_skips: Annotated[
        int | None,
        typer.Option(help="Skip connections of the part that is computed at every step.", min=1, show_default="1"),
    ] = None
    deep_window: Annotated[
        str | None, typer.Option(help="START-END, shares of the steps at which deep features are used again.")
    ] = None
    merge_tokens: Annotated[
        float | None,
        typer.Option(help="Share of the positions that self-attention merges, 0 to 0.75; for 512 pixels and above."),
    ] = None
    fast: Annotated[
        bool, typer.Option("--fast", help="The part of these that halves the time and costs less than 2% of F1.")
    ] = False
    weighting: Annotated[
        str | None,
        typer.Option(
            help="Weights of the control's layers: balanced, conditional, cfg-rw, released, soft, diffusers, or "
            "numbers with commas between.",
            show_default="balanced",
        ),
    ] = None
    sides: Annotated[
        str | None,
        typer.Option(
            help="CFG branches that the control acts on: both, conditional, or a share from 0 to 1 for the "
            "unconditional branch; less follows lines closer, and near 0 words less. By default what the control "
            "recommends (0.5 for the shipped ones), or else the weighting's.",
        ),
    ] = None
    control_mask: Annotated[
        list[Path] | None,
        typer.Option(
            help="White where the controls act, black where they do not. One for all, or one each, those of --control "
            "first. Repeatable.",
            show_default=False,
        ),
    ] = None
    mask_resize: Annotated[
        str | None,
        typer.Option(help="How --control-mask is brought to the size of a layer: area (the default) or bilinear."),
    ] = None
    combine: Annotated[
        str | None,
        typer.Option(
            help="How several controls become one: sum, or limited, which keeps contrast where they agree or conflict.",
            show_default="sum",
        ),
    ] = None
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT, multiples of 8; by default the base's own.")] = None
    fit: Annotated[
        str | None,
        typer.Option(help="How images of another shape are fitted: stretch, crop or pad.", show_default="crop"),
    ] = None
    init: Annotated[Path | None, typer.Option(help="Image to start from (image-to-image).")] = None
    init_latents: Annotated[
        str | None,
        typer.Option(help="Start from the mean of the encoded --init, or from a sample.", show_default="mean"),
    ] = None
    denoising_strength: Annotated[
        float | None,
        typer.Option(help="How much of --init is generated anew, above 0 and up to 1.", show_default="0.6"),
    ] = None
    mask: Annotated[
        Path | None, typer.Option(help="White where --init is generated anew, black where it is kept (inpainting).")
    ] = None
    base: Annotated[
        str | None,
        typer.Option(
            help="The base: tether (shipped), a diffusers folder, a single file, or a name on the hub.",
            show_default="tether",
        ),
    ] = None
    vae: Annotated[str | None, typer.Option(help="Another autoencoder for the base.")] = None
    prediction_type: Annotated[
        str | None,
        typer.Option(help="epsilon or v_prediction, when the base's files are wrong or silent about it."),
    ] = None
    clip_skip: Annotated[
        int | None,
        typer.Option(help="Number of last layers of the text encoder to leave out.", min=0, max=10, show_default="0"),
    ] = None
    lora: Annotated[list[str] | None, typer.Option(help="REF[:STRENGTH]: a LoRA for the base. Repeatable.")] = None
    embedding: Annotated[
        list[str] | None, typer.Option(help="A textual-inversion embedding; its word is printed. Repeatable.")
    ] = None
    grid: Annotated[
        bool,
        typer.Option("--grid", help="Also write a contact sheet: source (not with --again), condition, results."),
    ] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON an image.")] = False
    again: Annotated[Path | None, typer.Option(help="Repeat a PNG that Tether wrote, to the byte.")] = None
    models: Annotated[
        list[Path] | None,
        typer.Option(
            help="A folder to search for models that --again does not find at their paths. Repeatable.",
            envvar="TETHER_MODELS",
            show_default=False,
            show_envvar=True,
        ),
    ] = None
    preview: Annotated[
        Path | None, typer.Option(help="A PNG of what is being generated, rewritten after every step.")
    ] = None
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, mps, ...; by default cpu, with --again the image's own.")
    ] = None
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.", show_default="float32")] = None
    engine: Annotated[
        str | None,
        typer.Option(help="What computes: eager, compile, openvino, or auto.", show_default="eager"),
    ] = None
    low_memory: Annotated[
        bool, typer.Option("--low-memory", help="One image at a time, in tiles; on a GPU, one network at a time.")
    ] = False
    older_guidance: Annotated[float | None, _older("--guidance")] = None
    older_denoise: Annotated[float | None, _older("--denoise")] = None
    older_negative: Annotated[str | None, _older("--negative")] = None
