"""`tether convert`: bases and controls between the diffusers and the original layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tether.cli.sources import check_model
from tether.errors import TetherError
from tether.weights import shipped_control, split_kind

__all__ = ["convert"]

LAYOUTS = ("diffusers", "original")
ALIASES = {"released": "original"}
DTYPES = ("float32", "float16", "bfloat16")
PREDICTION_TYPES = ("epsilon", "v_prediction")


def convert(
    source: Annotated[str, typer.Argument(help="A base or a control: folder, file, or name on the hub.")],
    target: Annotated[Path, typer.Argument(help="The folder (diffusers) or file (original) to write.")],
    to: Annotated[str, typer.Option("--to", help="diffusers or original.")],
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing target.")] = False,
    base: Annotated[
        str | None, typer.Option(help="The base that a control's difference file is added to.", show_default=False)
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="The kind of a control (canny, ...), if it is not known.", show_default=False)
    ] = None,
    prediction_type: Annotated[
        str | None,
        typer.Option(help="What a base predicts: epsilon or v_prediction; overrides its files.", show_default=False),
    ] = None,
    transfer_from: Annotated[
        str | None, typer.Option(help="Transfer a control: the base it was trained on.", show_default=False)
    ] = None,
    transfer_to: Annotated[
        str | None, typer.Option(help="Transfer a control: the base to use it with.", show_default=False)
    ] = None,
) -> None:
    """Convert a base or a control to another layout, or transfer a control to another base."""
    _check_choice("--to", to, (*LAYOUTS, *ALIASES), LAYOUTS)
    _check_choice("--dtype", dtype, DTYPES)
    _check_choice("--prediction-type", prediction_type, PREDICTION_TYPES)
    if shipped_control(source) is None:
        check_model(split_kind(source)[0], "model")
    for ref in (base, transfer_from, transfer_to):
        if ref is not None:
            check_model(ref, "base")
    import torch

    from tether.conversion import convert as write

    done = write(
        source,
        target,
        to=ALIASES.get(to, to),  # type: ignore[arg-type]
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


def _check_choice(
    option: str, value: str | None, accepted: tuple[str, ...], shown: tuple[str, ...] | None = None
) -> None:
    if value is not None and value not in accepted:
        raise TetherError(f"{option} {value}: expected one of {', '.join(shown or accepted)}")
