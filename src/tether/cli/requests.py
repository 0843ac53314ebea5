"""The options of `tether generate` -> a request. What can be refused is refused before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path
from secrets import randbelow
from typing import TYPE_CHECKING, Any

from tether.cli.arguments import (
    ControlArgument,
    as_utf8,
    parse_control,
    parse_seeds,
    parse_sides,
    parse_size,
    parse_weighting,
    parse_window,
    refuse_other_bytes,
)
from tether.cli.options import GenerateOptions
from tether.cli.sources import (
    check_control,
    check_folder,
    check_input,
    check_model,
    check_not_input,
    check_replaceable,
    image_files,
    is_image_file,
)
from tether.errors import TetherError

if TYPE_CHECKING:
    from tether.sampling import Request

__all__ = ["PREVIEW", "check_models", "check_output", "folders_of", "prompt_lines", "prompts_of", "request_of"]

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
    "deep_every",
    "deep_skips",
    "merge_tokens",
    "combine",
    "fit",
    "init_latents",
    "denoising_strength",
    "base",
    "vae",
    "prediction_type",
    "clip_skip",
    "device",
    "dtype",
    "engine",
    "low_memory",
)
"""The options that are fields of a request as they are."""
OLDER = (
    ("older_guidance", "guidance_scale", "--guidance"),
    ("older_denoise", "denoising_strength", "--denoise"),
    ("older_negative", "negative_prompt", "--negative"),
)
"""Of the options with an older name: its field, the newer field, and the older name."""
PREVIEW = "generate --preview"
"""What writes a preview; see `tether.cli.sources.made_by`."""
NEW_SEEDS = 2**32
"""A random seed is below this, as in other programs."""


def prompts_of(options: GenerateOptions) -> list[str]:
    """The prompt, or those of a file, one a line; empty lines and lines that begin with "#" are left out.

    Raises:
        TetherError: when the file cannot be read, or has none.
    """
    if options.prompts is None:
        return [options.prompt or ""]
    return [line.strip() for line in prompt_lines(options.prompts)]


def prompt_lines(path: Path) -> list[str]:
    """The lines of a file of prompts, without empty ones and those that begin with "#".

    Raises:
        TetherError: when the file cannot be read, or has none.
    """
    check_input(path, "a text file of prompts, one a line")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TetherError(f"{path} cannot be read as text: {error}") from None
    prompts = [line for line in lines if line.strip() and not line.startswith("#")]
    if not prompts:
        raise TetherError(f"{path} has no prompt: expected one a line")
    return prompts


def folders_of(options: GenerateOptions) -> dict[int, Path]:
    """The folders that are drawn image by image, by the number of their control."""
    found = [parse_control(text).image for _, text in _entries(options)]
    return {number: path for number, path in enumerate(found) if path.is_dir()}


def request_of(options: GenerateOptions, prompt: str) -> Request:
    """The request of the options; images are opened and not yet fitted.

    Raises:
        TetherError: when an option cannot be right.
    """
    controls = [(field, parse_control(text)) for field, text in _entries(options)]
    steering = _given(
        weighting=None if options.weighting is None else parse_weighting(options.weighting),
        sides=None if options.sides is None else parse_sides(options.sides),
        mask_resize=options.mask_resize,
        every=options.control_every,
        tolerance=options.control_tolerance,
    )
    values = _values(options)
    _check_uses(options, values)
    refuse_other_bytes(
        [prompt, values.get("negative_prompt", ""), values.get("base", ""), options.vae or ""]
        + [one.ref for _, one in controls]
        + [*(options.lora or []), *(options.embedding or [])]
    )
    inputs = [path for path in (options.init, options.mask) if path is not None]
    inputs += [one.settings["mask"] for _, one in controls if "mask" in one.settings]
    masks = _control_masks(options, len(controls))
    for (_, one), mask in zip(controls, masks, strict=True):
        if "mask_resize" in one.settings and "mask" not in one.settings and mask is None:
            raise TetherError(f"mask_resize of {one.ref} has nothing to act on: it needs mask=FILE or --control-mask")
    inputs += options.control_mask or []
    for _, one in controls:
        check_control(one.ref)
    files = [[] if one.image.is_dir() else image_files(one.image) for _, one in controls]
    _with_count(values, files, options)
    inputs += [path for each in files for path in each]
    for path in inputs:
        check_input(path)
    check_models(options)
    check_output(options, inputs)

    from tether.images import open_image
    from tether.sampling.request import Request

    shared = [steering | _given(mask=mask) for mask in masks]
    return Request(
        prompt=prompt,
        controls=[
            _control(field, one, paths, each, options)
            for (field, one), paths, each in zip(controls, files, shared, strict=True)
        ],
        init=None if options.init is None else open_image(options.init),
        mask=None if options.mask is None else open_image(options.mask),
        **values,
    )


def check_output(options: GenerateOptions, inputs: list[Path]) -> None:
    """Refuses an output that cannot be written, or is an input."""
    check_folder(options.out.parent if is_image_file(options.out) else options.out)
    check_not_input(options.out, inputs, "--out")
    if options.preview is not None:
        check_not_input(options.preview, inputs, "--preview")
        if options.preview.resolve() == options.out.resolve():
            raise TetherError(f"--preview {options.preview} is --out, too: give another name")
        check_replaceable(options.preview, PREVIEW, "--preview")
        check_folder(options.preview.parent, "--preview")


def check_models(options: GenerateOptions) -> None:
    """Refuses a base, an autoencoder or an embedding that cannot be found."""
    for what, ref in (("base", options.base), ("autoencoder", options.vae)):
        if ref is not None:
            check_model(ref, what)
    for ref in options.embedding or []:
        check_model(ref, "embedding")
    for text in options.lora or []:
        from tether.sampling.request import parse_lora

        check_model(parse_lora(text)[0], "LoRA")


def _entries(options: GenerateOptions) -> list[tuple[str, str]]:
    entries = [("photo", text) for text in options.control or []]
    return entries + [("condition", text) for text in options.condition or []]


def _with_count(values: dict[str, Any], files: list[list[Path]], options: GenerateOptions) -> None:
    """Gives the request as many images as a control has files.

    Raises:
        TetherError: when controls, `--count` and `--seed` ask for different numbers.
    """
    for (_, text), each in zip(_entries(options), files, strict=True):
        if len(each) < 2:
            continue
        count = values.setdefault("count", len(each))
        if count != len(each):
            raise TetherError(f"{text} has {len(each)} images for a count of {count}: give one, or one an image")


def _control(
    field: str, one: ControlArgument, paths: list[Path], steering: dict[str, Any], options: GenerateOptions
) -> Any:
    """The control of an argument; its own settings come before those of the options. A folder has no image yet."""
    from tether.images import open_image, open_map
    from tether.sampling.request import ControlRequest

    opened = open_map if field == "condition" else open_image
    settings = steering | one.settings
    if "mask" in settings:
        settings["mask"] = open_image(settings["mask"])
    if field == "condition":
        settings.setdefault("invert", options.invert)
    return ControlRequest(
        ref=one.ref,
        source=as_utf8(", ".join(path.name for path in paths)),
        strength=one.strength,  # type: ignore[arg-type]  # a schedule is read as its text
        window=one.window,
        options=one.options,
        **{field: [opened(path) for path in paths] or _no_image()},
        **settings,
    )


def _no_image() -> Any:
    from tether.sampling.folders import EMPTY  # loads PyTorch

    return EMPTY


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


def _values(options: GenerateOptions) -> dict[str, Any]:
    """The fields of a request that are neither images nor controls."""
    for name, newer, older in OLDER:
        if getattr(options, name) is not None and getattr(options, newer) is not None:
            raise TetherError(f"{older} is the older name of --{newer.replace('_', '-')}: give one of them")
    values = _given(**{name: getattr(options, name) for name in AS_GIVEN})
    values |= _given(**{newer: getattr(options, name) for name, newer, _ in OLDER})
    values |= _given(
        size=None if options.size is None else parse_size(options.size),
        guidance_window=_window_of(options.guidance_window, "--guidance-window", "0.2-0.8"),
        deep_window=_window_of(options.deep_window, "--deep-window", "0.2-1"),
        fast=options.fast or None,
        loras=options.lora,
        embeddings=options.embedding,
    )
    values["seed"] = randbelow(NEW_SEEDS) if options.seed is None else parse_seeds(options.seed)
    if isinstance(values["seed"], list):
        if options.count not in (None, 1):
            raise TetherError("--seed already names every image: leave --count out")
        values["count"] = len(values["seed"])
    return values


def _is_spread_by_sigmas(values: dict[str, Any]) -> bool:
    """Whether the request's sampler takes its timesteps from `sigmas`, whatever its spacing."""
    from tether.sampling.request import Request  # here: most commands are checked without it
    from tether.sampling.samplers import SPREAD_BY_SIGMAS

    return values.get("scheduler", Request.model_fields["scheduler"].default) in SPREAD_BY_SIGMAS


def _check_uses(options: GenerateOptions, values: dict[str, Any]) -> None:
    """Refuses options that have nothing to act on."""
    steered, unguided = bool(_entries(options)), values.get("guidance_scale") == 1
    reuses = options.fast or (options.deep_every or 1) > 1
    idle = (
        ("--fast", options.fast and options.deep_every == 1, "--deep-every above 1"),
        ("--denoising-strength", "denoising_strength" in values and options.init is None, "--init"),
        ("--init-latents", options.init_latents is not None and options.init is None, "--init"),
        ("--mask", options.mask is not None and options.init is None, "--init"),
        ("--weighting", options.weighting is not None and not steered, "--control or --condition"),
        ("--sides", options.sides is not None and not steered, "--control or --condition"),
        ("--sides", options.sides is not None and unguided, "a --guidance-scale other than 1"),
        ("--combine", options.combine is not None and len(_entries(options)) < 2, "several controls"),
        ("--invert", options.invert is not None and not options.condition, "--condition"),
        ("--fit", options.fit is not None and not steered and options.init is None, "an image to fit"),
        ("--negative-prompt", bool(values.get("negative_prompt")) and unguided, "a --guidance-scale other than 1"),
        ("--control-every", options.control_every is not None and not steered, "--control or --condition"),
        ("--control-tolerance", options.control_tolerance is not None and not steered, "--control or --condition"),
        ("--deep-skips", options.deep_skips is not None and not reuses, "--deep-every above 1, or --fast"),
        ("--deep-window", options.deep_window is not None and not reuses, "--deep-every above 1, or --fast"),
        ("--guidance-window", options.guidance_window is not None and unguided, "a --guidance-scale other than 1"),
        (
            "--spacing",
            options.spacing is not None and options.sigmas is not None and _is_spread_by_sigmas(values),
            "a --scheduler whose timesteps --sigmas does not choose, such as euler",
        ),
        ("--guidance-rescale", bool(options.guidance_rescale) and unguided, "a --guidance-scale other than 1"),
    )
    for option, is_idle, needed in idle:
        if is_idle:
            raise TetherError(f"{option} has nothing to act on: it needs {needed}")


def _window_of(given: str | None, option: str, example: str) -> tuple[float, float] | None:
    return None if given is None else parse_window(given, f"{option} {given}", example)


def _given(**values: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in values.items() if value is not None}
