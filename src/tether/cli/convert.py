"""`tether convert`: bases and controls between the layouts people have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tether.errors import TetherError

__all__ = ["convert"]

DTYPES = ("float32", "float16", "bfloat16")


def convert(
    source: Annotated[str, typer.Argument(help="A base or a control: folder, file, or name on the hub.")],
    target: Annotated[Path, typer.Argument(help="The folder (diffusers) or file (released) to write.")],
    to: Annotated[str, typer.Option("--to", help="diffusers or released.")],
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    base: Annotated[
        str | None, typer.Option(help="The base that a control's difference file belongs to.", show_default=False)
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="A control's conditions (canny, ...), if not noted.", show_default=False)
    ] = None,
    prediction_type: Annotated[
        str | None, typer.Option(help="A base's: epsilon or v_prediction, if wrong or silent.", show_default=False)
    ] = None,
    transfer_from: Annotated[
        str | None, typer.Option(help="Move a control: the base it was trained on.", show_default=False)
    ] = None,
    transfer_to: Annotated[
        str | None, typer.Option(help="Move a control: the base it shall steer.", show_default=False)
    ] = None,
) -> None:
    """Write a base or a control in another layout, or move a control to another base."""
    if to not in ("diffusers", "released"):
        raise TetherError(f"--to {to}: choose diffusers or released")
    if dtype not in (None, *DTYPES):
        raise TetherError(f"--dtype {dtype}: choose one of {', '.join(DTYPES)}")
    if prediction_type not in (None, "epsilon", "v_prediction"):
        raise TetherError(f"--prediction-type {prediction_type}: choose epsilon or v_prediction")
    import torch

    from tether.conversion import convert as write

    done = write(
        source,
        target,
        to=to,
        dtype=getattr(torch, dtype) if dtype else None,
        force=force,
        base=base,
        kind=kind,
        prediction_type=prediction_type,
        transfer_from=transfer_from,
        transfer_to=transfer_to,
    )
    print(f"{done.words}: {done.tensors} tensors, {done.bytes / 1e6:.1f} MB, in {done.target}")
    for note in done.notes:
        print(note)
