"""`tether demo`: the main job on the shipped weights, from images that no training saw."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tether.cli.output import drawn_name
from tether.cli.sources import check_folder, check_replaceable, made_by

if TYPE_CHECKING:
    from tether.sampling import Request

__all__ = ["demo"]

EXAMPLES: list[tuple[str, list[str]]] = [
    ("house.webp", ["a house, 3d emoji", "a house, flat emoji", "a house, 3d emoji, blue background"]),
    ("mouse.webp", ["a mouse face, 3d emoji", "a bear, 3d emoji", "a panda, flat emoji, yellow background"]),
    ("lock.webp", ["a lock, 3d emoji", "a handbag, 3d emoji", "a bell, 3d emoji, pink background"]),
    ("doodle.png", ["a red apple, 3d emoji", "a peach, 3d emoji", "a green apple, flat emoji"]),
]
"""Image and prompts. The emoji are held out of every training; doodle.png is a ready-made condition."""


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the images.")] = Path("out/demo"),
    seed: Annotated[int, typer.Option(help="Seed of every image.")] = 7,
    force: Annotated[bool, typer.Option("--force", help="Replace any file of the same name.")] = False,
) -> None:
    """Generate a sheet of images: several prompts over each of four sets of lines, in under a minute."""
    started = time.perf_counter()
    check_folder(out)
    sheet = out / "sheet.png"
    names = [drawn_name(prompt, seed) for _, prompts in EXAMPLES for prompt in prompts]
    for path in (sheet, *(out / f"{name}.png" for name in names)):
        check_replaceable(path, "demo", force=force)
    from tether.cli.generate import drawn_with_progress
    from tether.cli.output import print_drawn, write_drawn
    from tether.images import contact_sheet, save_png
    from tether.sampling import Session

    session = Session()
    requests = [session.prepare(_request(name, seed)) for name, _ in EXAMPLES]
    print(f"loaded the base and the canny control in {time.perf_counter() - started:.1f} s")
    drawing = time.perf_counter()
    rows = []
    for request, (_, prompts) in zip(requests, EXAMPLES, strict=True):
        (control,) = request.controls
        row = [control.photo or control.condition, control.condition]
        for prompt in prompts:
            ((one,), _) = drawn_with_progress(session, request.model_copy(update={"prompt": prompt}))
            one = replace(one, metadata=one.metadata | made_by("demo"))
            print_drawn(write_drawn(one, prompt, out, replace=True), one, prompt)
            row.append(one.image)
        rows.append(row)
    count = sum(len(prompts) for _, prompts in EXAMPLES)
    seconds = time.perf_counter() - drawing
    labels = [["source", "condition", *prompts] for _, prompts in EXAMPLES]
    save_png(contact_sheet(rows, labels=labels), sheet, made_by("demo"))
    print(f"{count} images in {seconds:.1f} s ({seconds / count:.2f} s each); the sheet: {sheet}")


def _request(name: str, seed: int) -> Request:
    """A request over one of the examples, without its prompt."""
    from tether.images import open_image
    from tether.sampling import ControlRequest, Request

    image = open_image(Path(__file__).parents[1] / "examples" / name)
    given: dict[str, Any] = {"condition": image} if name == "doodle.png" else {"photo": image}
    return Request(prompt="", seed=seed, controls=[ControlRequest(ref="canny", source=name, **given)])
