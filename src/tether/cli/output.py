"""Where a command's images go: names, folders, lines on standard output."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from tether.cli.sources import is_image_file
from tether.files.atomic import make_folder, write_new

if TYPE_CHECKING:
    from PIL import Image

    from tether.sampling import Drawn

__all__ = ["drawn_name", "free_paths", "print_drawn", "slug", "write_drawn", "write_sheet"]


def slug(text: str) -> str:
    """A file name from a prompt."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "picture"


def drawn_name(prompt: str, seed: int) -> str:
    """The name of an image in a folder, without its suffix."""
    return f"{slug(prompt)}-{seed}"


def free_paths(folder: Path, stem: str, suffix: str = ".png") -> Iterator[Path]:
    """`folder/stem.png`, `stem-2.png`, `stem-3.png`, ...: the first that is free is written, nothing is replaced."""
    yield folder / f"{stem}{suffix}"
    for number in count(2):
        yield folder / f"{stem}-{number}{suffix}"


def write_drawn(drawn: Drawn, prompt: str, out: Path, *, replace: bool = False) -> Path:
    """Writes one image, and gives its path. Nothing is printed: a closed pipe would lose the images after it.

    Args:
        drawn: the image.
        prompt: its file name in a folder, with the seed.
        out: a folder, or the name of a file that ends in .png, .jpg, .jpeg or .webp.
        replace: replace a file of that name.
    """
    named = is_image_file(out)
    folder, stem = (out.parent, out.stem) if named else (out, drawn_name(prompt, drawn.seed))
    return _write(drawn.image, folder, stem, drawn.metadata, out.suffix if named else ".png", replace)


def print_drawn(path: Path, drawn: Drawn, prompt: str, seconds: float | None = None) -> None:
    """Prints the path of an image that is written; with the seconds that it took, a line of JSON."""
    if seconds is None:
        print(path, flush=True)
        return
    line = {"path": str(path), "seed": drawn.seed, "width": drawn.image.width, "height": drawn.image.height}
    print(json.dumps(line | {"prompt": prompt, "seconds": round(seconds, 3)}), flush=True)


def write_sheet(sheet: Image.Image, prompt: str, seed: int, out: Path) -> Path:
    """Writes a contact sheet beside the images."""
    folder, stem = (out.parent, out.stem) if is_image_file(out) else (out, drawn_name(prompt, seed))
    return _write(sheet, folder, f"{stem}-sheet", {}, ".png", False)


def _write(image: Image.Image, folder: Path, stem: str, metadata: dict[str, str], suffix: str, replace: bool) -> Path:
    from tether.images import save_image

    make_folder(folder)
    names = free_paths(folder, stem, suffix)
    if replace:
        path = next(names)
        save_image(image, path, metadata)
        return path
    return write_new(names, lambda part: save_image(image, part, metadata))
