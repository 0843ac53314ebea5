"""`tether inspect`: does a condition leave the picture open? Told from its map, and where that may be by drawing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tether.cli.arguments import parse_control, parse_size
from tether.cli.sources import check_input
from tether.errors import TetherError

if TYPE_CHECKING:
    from PIL import Image

    from tether.cli.arguments import ControlArgument

__all__ = ["inspect"]

SIZE = "128x128"
"""What the shipped base draws."""
MAX_SIDE, FACTOR = 4096, 8
"""A side is at most this, and a multiple of that, as in `tether generate`."""


def inspect(
    condition: Annotated[str, typer.Argument(metavar="KIND=IMAGE", help="A ready map and its kind: canny=edges.png.")],
    photo: Annotated[bool, typer.Option("--photo", help="IMAGE is a photo: make its map first.")] = False,
    prompt: Annotated[str, typer.Option(help="What would be drawn: tell it with this prompt too.")] = "",
    draw: Annotated[bool, typer.Option(help="Where the map alone does not tell, draw quick pictures of it.")] = True,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT that would be drawn; the map is fitted to it.")] = SIZE,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell whether a condition leaves the picture open, so that every seed draws something else.

    Where its map has few connected lines, three pictures of different seeds are drawn in a few steps, and compared.
    `tether generate` looks at the map alone. Kinds that are judged: canny.
    """
    argument = parse_control(condition)
    if argument.strength != 1 or argument.window != (0, 1) or argument.settings or (argument.options and not photo):
        raise TetherError(f"{condition!r} has settings of a control: write KIND=IMAGE")
    if prompt and not draw:
        raise TetherError("--prompt has no effect without drawing: leave --no-draw out")
    wanted = parse_size(size)
    if any(side % FACTOR or side > MAX_SIDE for side in wanted):
        raise TetherError(f"--size {size}: width and height must be multiples of {FACTOR} up to {MAX_SIDE}")

    from tether.kinds import kind_of

    kind = kind_of(argument.ref).name  # reports an unknown kind before a bad image
    check_input(argument.image)
    found = _inspected(argument, kind, photo, wanted, prompt, draw)
    print(json.dumps(found) if as_json else "\n".join(_lines(found)))


def _inspected(
    argument: ControlArgument, kind: str, photo: bool, size: tuple[int, int], prompt: str, draw: bool
) -> dict[str, Any]:
    """What is known of the map, as JSON values."""
    import numpy as np

    from tether.images import to_rgb
    from tether.kinds.openness import LIMITS, nothing_in, remedy, structure

    fitted = to_rgb(_map(argument, kind, photo, size), "black")
    pixels = np.asarray(fitted)
    found: dict[str, Any] = {"image": str(argument.image), "kind": kind, "judged": kind in LIMITS}
    if nothing := nothing_in(kind, pixels):
        found["says_nothing"] = f"it is {nothing} everywhere"
    elif kind in LIMITS:
        found["structure"] = round(structure(pixels), 4)
        limits = {"without_prompt": LIMITS[kind].without_prompt, "with_prompt": LIMITS[kind].with_prompt}
        for name, limit in limits.items():
            may_be = found["structure"] < limit
            found[name] = {"limit": limit, "may_be_open": may_be, "open": None if may_be else False}
        if draw:
            prompts = {"without_prompt": ""} | ({"with_prompt": prompt} if prompt else {})
            _compare(found, {name: text for name, text in prompts.items() if found[name]["may_be_open"]}, fitted, size)
        for name in limits:
            if found[name]["open"] is not False:
                found[name]["settles_it"] = remedy(prompted=name == "with_prompt")
    return found


def _compare(found: dict[str, Any], prompts: dict[str, str], fitted: Image.Image, size: tuple[int, int]) -> None:
    """Adds how well quick pictures agree with each of some prompts; models are opened where there is one."""
    if not prompts:
        return
    from tether.kinds.openness import AGREEMENT
    from tether.sampling import Session
    from tether.sampling.openness import quick_agreement

    session = Session()
    for name, prompt in prompts.items():
        agreement = round(quick_agreement(session, found["kind"], fitted, prompt, size), 4)
        found[name] |= {"agreement": agreement, "open": agreement < AGREEMENT}


def _map(argument: ControlArgument, kind: str, photo: bool, size: tuple[int, int]) -> Image.Image:
    """The map as `tether generate` would use it."""
    from tether.images import open_image, open_map
    from tether.kinds import fit_map, prepare
    from tether.kinds.polarity import from_paper, is_dark_on_light

    if photo:
        return prepare(open_image(argument.image), kind, size, options=argument.options).condition
    given = open_map(argument.image)
    return fit_map(from_paper(given) if is_dark_on_light(given, kind) else given, kind, size)


def _lines(found: dict[str, Any]) -> list[str]:
    name = f"{found['image']} as {found['kind']}"
    if "says_nothing" in found:
        return [f"{name}: says nothing, {found['says_nothing']}"]
    if not found["judged"]:
        from tether.kinds.openness import LIMITS

        return [f"{name}: says something; whether it leaves the picture open is known of {', '.join(LIMITS)} alone"]
    lines = [f"{name}: connected lines run through {found['structure']:.0%} of it"]
    return [
        *lines,
        f"without a prompt: {_said(found['without_prompt'])}",
        f"with a prompt: {_said(found['with_prompt'])}",
    ]


def _said(one: dict[str, Any]) -> str:
    from tether.kinds.openness import AGREEMENT

    if "agreement" in one:
        seen = f"quick pictures of three seeds agree by {one['agreement']:.2f} (open below {AGREEMENT})"
        return f"open, {seen}: {one['settles_it']}" if one["open"] else f"not open, {seen}"
    if one["may_be_open"]:
        return f"may be open (below {one['limit']:.0%}): if so, {one['settles_it']}"
    return f"not open by this measure ({one['limit']:.0%} or more)"
