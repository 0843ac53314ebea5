"""`tether annotate`: an image in, a condition map out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tether.cli.sources import check_folder, check_input, check_not_input, check_replaceable, made_by
from tether.errors import TetherError
from tether.files.atomic import make_folder

__all__ = ["annotate"]


def _list_kinds(wanted: bool) -> None:
    """Prints the kinds, one a line, and ends the command."""
    if not wanted:
        return
    from tether.kinds import kinds

    for name, kind in kinds().items():
        how = "the image itself" if kind.is_image else ", ".join(kind.annotators) or "ready-made maps only"
        print(f"{name:16} {kind.summary} ({how})")
        for annotator, found in kind.annotators.items():
            for option, about in found.options.items():
                values = f"{about.least:g} to {about.most:g}, by default {about.default:g}"
                print(f"{'':16} {annotator} {option}: {about.help} ({values})")
    raise typer.Exit


def annotate(
    kind: Annotated[str, typer.Argument(help="The kind of condition, such as canny or scribble; see --list.")],
    image: Annotated[Path, typer.Argument(help="The image file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG to write.")],
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="NAME=VALUE: an option of the annotator, such as low=50. Repeatable.", show_default=False
        ),
    ] = None,
    annotator: Annotated[
        str | None, typer.Option(help="Which of the kind's annotators; by default the first.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace any file at --out.")] = False,
    mask: Annotated[
        Path | None,
        typer.Option(help="For inpaint: an image that is white where it is to be inpainted.", show_default=False),
    ] = None,
    list_kinds: Annotated[
        bool, typer.Option("--list", help="List all kinds and their options.", callback=_list_kinds, is_eager=True)
    ] = False,
) -> None:
    """Turn an image into a condition map for a control."""
    from tether.kinds import annotatable

    found = annotatable(kind, annotator)  # reports an unknown kind before a bad image
    if found.needs_mask != (mask is not None):
        needs = "needs a mask: give --mask" if found.needs_mask else "takes no --mask: leave it out"
        raise TetherError(f"{kind} {needs}")
    options = _parse_options(option or [])
    inputs = [image] if mask is None else [image, mask]
    for path in inputs:
        check_input(path)
    check_not_input(out, inputs, "--out")
    check_replaceable(out, "annotate", force=force)
    check_folder(out.parent)

    from tether.images import open_image, save_png
    from tether.kinds import make_map

    if mask is None:
        made = make_map(kind, open_image(image), annotator, options)
    else:
        from tether.kinds.inpaint import masked

        made = masked(make_map(kind, open_image(image), annotator, options), open_image(mask))
    make_folder(out.parent)
    save_png(made, out, made_by("annotate"))
    print(out)


def _parse_options(texts: list[str]) -> dict[str, float]:
    """Parses NAME=NUMBER.

    Raises:
        TetherError: for text of another form.
    """
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            options[name] = float(value)
        except ValueError:
            raise TetherError(f"{text!r} is not a valid option: write NAME=NUMBER, such as low=50") from None
        if not equals:
            raise TetherError(f"{text!r} is not a valid option: write NAME=NUMBER, such as low=50")
    return options
