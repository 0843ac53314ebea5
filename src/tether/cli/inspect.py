"""`tether inspect`: does a condition leave the picture open? Told from its map alone, without drawing."""

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
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT that would be drawn; the map is fitted to it.")] = SIZE,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell whether a condition leaves the picture open, so that every seed draws something else.

    `tether generate` says so too, in one line, before it draws. Kinds that are judged: canny.
    """
    argument = parse_control(condition)
    if argument.strength != 1 or argument.window != (0, 1) or argument.settings or (argument.options and not photo):
        raise TetherError(f"{condition!r} has settings of a control: write KIND=IMAGE")
    wanted = parse_size(size)
    if any(side % FACTOR or side > MAX_SIDE for side in wanted):
        raise TetherError(f"--size {size}: width and height must be multiples of {FACTOR} up to {MAX_SIDE}")

    from tether.kinds import kind_of

    kind = kind_of(argument.ref).name  # reports an unknown kind before a bad image
    check_input(argument.image)
    found = _inspected(argument, kind, photo, wanted)
    print(json.dumps(found) if as_json else "\n".join(_lines(found)))


def _inspected(argument: ControlArgument, kind: str, photo: bool, size: tuple[int, int]) -> dict[str, Any]:
    """What is known of the map, as JSON values."""
    import numpy as np

    from tether.images import to_rgb
    from tether.kinds.openness import LIMITS, is_open, nothing_in, remedy, structure

    pixels = np.asarray(to_rgb(_map(argument, kind, photo, size), "black"))
    found: dict[str, Any] = {"image": str(argument.image), "kind": kind, "judged": kind in LIMITS}
    if nothing := nothing_in(kind, pixels):
        found["says_nothing"] = f"it is {nothing} everywhere"
    elif kind in LIMITS:
        found["structure"] = round(structure(pixels), 4)
        limits = {False: LIMITS[kind].without_prompt, True: LIMITS[kind].with_prompt}
        for prompted, name in ((False, "without_prompt"), (True, "with_prompt")):
            is_it = is_open(kind, pixels, prompted=prompted)
            found[name] = {"open": is_it, "limit": limits[prompted]}
            if is_it:
                found[name]["settles_it"] = remedy(prompted=prompted)
    return found


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
    for title, one in (("without a prompt", found["without_prompt"]), ("with a prompt", found["with_prompt"])):
        if one["open"]:
            lines.append(f"{title}: open (below {one['limit']:.0%}), seeds will differ: {one['settles_it']}")
        else:
            lines.append(f"{title}: not open by this measure ({one['limit']:.0%} or more)")
    return lines
