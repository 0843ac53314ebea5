"""`tether demo`: the main job on the shipped weights, from pictures that no training saw."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["demo"]

EXAMPLES: list[tuple[str, list[str]]] = [
    ("house.webp", ["a house, 3d emoji", "a house, flat emoji", "a house, 3d emoji, blue background"]),
    ("mouse.webp", ["a mouse face, 3d emoji", "a bear, 3d emoji", "a panda, flat emoji, yellow background"]),
    ("lock.webp", ["a lock, 3d emoji", "a handbag, 3d emoji", "a bell, 3d emoji, pink background"]),
    ("doodle.png", ["a red apple, 3d emoji", "a peach, 3d emoji", "a green apple, flat emoji"]),
]
"""Picture and prompts. The emoji are held out of every training; doodle.png is a ready condition."""
SIDES = 0.6
"""The unconditional side's share of the control: at 1 lines are followed less, words hardly better (its model card)."""


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")] = Path("out/demo"),
    seed: Annotated[int, typer.Option(help="Seed of every picture.")] = 7,
) -> None:
    """Draw a sheet of pictures: several prompts over each of four sets of lines, in under a minute."""
    started = time.perf_counter()
    import tether
    from tether.cli.generate import draw, versions
    from tether.images import contact_sheet, open_image, save_png
    from tether.kinds import prepare
    from tether.sampling.request import ControlRequest, Request

    pipeline = tether.Pipeline(tether.load_base(), [tether.ControlNet.load("canny")])
    side = pipeline.base.sample_size
    print(f"loaded the base and the canny control in {time.perf_counter() - started:.1f} s")

    rows, labels = [], []
    drawing = time.perf_counter()
    for name, prompts in EXAMPLES:
        photo = open_image(Path(__file__).parents[1] / "examples" / name)
        prepared = prepare(photo, None if name.startswith("doodle") else "canny", (side, side))
        row = [prepared.photo, prepared.condition]
        for prompt in prompts:
            control = ControlRequest(ref="canny", condition=prepared.condition, source=name, sides=SIDES)
            request = Request(prompt=prompt, controls=[control], seed=seed, size=(side, side), versions=versions())
            row += draw(request, pipeline, out)
        rows.append(row)
        labels.append(prompts)
    count = sum(len(prompts) for prompts in labels)
    seconds = time.perf_counter() - drawing
    sheet = out / "sheet.png"
    save_png(contact_sheet(rows, labels=[["source", "condition", *prompts] for prompts in labels]), sheet, {})
    print(f"{count} pictures in {seconds:.1f} s ({seconds / count:.2f} s each); the sheet: {sheet}")
