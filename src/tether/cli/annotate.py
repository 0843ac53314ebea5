"""`tether annotate`: a photo in, a condition image out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tether.errors import TetherError
from tether.kinds import AS_THEY_ARE, annotator, annotator_names
from tether.kinds import annotate as find

__all__ = ["annotate"]


def annotate(
    kind: Annotated[str, typer.Argument(help=f"What to find: {', '.join(annotator_names())}.")],
    image: Annotated[Path, typer.Argument(help="The photo.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG to write.")],
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="NAME=VALUE, an option of the annotator, as low=50. Repeatable.", show_default=False
        ),
    ] = None,
) -> None:
    """Turn a photo into a condition image that a control understands."""
    from tether.images import open_image, save_png

    if kind not in AS_THEY_ARE:
        annotator(kind)  # so that a wrong kind is told before a wrong picture
    options = {}
    for text in option or []:
        name, equals, value = text.partition("=")
        try:
            options[name] = float(value)
        except ValueError:
            raise TetherError(f"{text!r} is no option: write NAME=NUMBER, as low=50") from None
        if not equals:
            raise TetherError(f"{text!r} is no option: write NAME=NUMBER, as low=50")
    save_png(find(kind, open_image(image), **options), out, {})
    print(out)
