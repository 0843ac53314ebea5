"""What is drawn of a folder: for each image its prompt, its seed and the name of its picture.

Everything depends on the name of an image and not on the others beside it, so that a folder to which images were added
is continued with the same seeds.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tether.errors import TetherError
from tether.files.listing import image_names
from tether.sampling.request import Request

__all__ = ["Task", "list_tasks", "seed_of"]


@dataclass(frozen=True)
class Task:
    """One picture to draw.

    Attributes:
        input: the name of its image in the first folder, with "/" between.
        output: the name of its picture.
        seed: of the picture.
        prompt: of the picture.
        files: number of a control -> its image.
        fault: why it cannot be drawn.
    """

    input: str
    output: str
    seed: int
    prompt: str = ""
    files: Mapping[int, Path] = field(default_factory=dict)
    fault: str | None = None


def seed_of(name: str, seed: int) -> int:
    """The seed of an image: the first 32 bits of the SHA-256 of "SEED/NAME", NAME in Unicode's form NFC."""
    text = f"{seed}/{unicodedata.normalize('NFC', name)}"
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:4], "big")


def list_tasks(
    folders: Mapping[int, Path],
    request: Request,
    *,
    prompt: str | None = None,
    prompts: Mapping[str, str] | None = None,
    out: Path | None = None,
) -> list[Task]:
    """The pictures of a folder, by the names of its images.

    Args:
        folders: number of a control in the request -> the folder of its images. The first has the images that are
            drawn; the others have an image of the same name each, the suffix aside.
        request: its count is the number of pictures of an image, and its seed is what the seeds are made from: of the
            first picture `seed_of(name, seed)`, of the next ones that plus 1, 2, ...
        prompt: of every picture; by default the caption of an image, in the text file of its name beside it.
        prompts: instead, name of an image, with or without its suffix -> prompt.
        out: the folder of the results, whose files do not count where it lies in a folder of images.

    Raises:
        TetherError: when the first folder has no image.
    """
    first, *others = folders
    names = image_names(folders[first], out)
    if not names:
        raise TetherError(f"{folders[first]} has no image: expected .png, .jpg, .webp, ...")
    beside = {k: _by_stem(image_names(folders[k], out)) for k in others}
    tasks = []
    for name, stem in zip(names, _outputs(names), strict=True):
        files, faults = {first: folders[first] / name}, []
        for k in others:
            found = _same(name, beside[k])
            faults += [] if found else [f"{folders[k]} has no image for it"]
            files |= {k: folders[k] / found} if found else {}
        text, missing = _prompt(folders[first] / name, name, prompt, prompts)
        fault = next(iter([*faults, *missing]), None)
        for number in range(request.count):
            output = f"{stem}.png" if request.count == 1 else f"{stem}-{number + 1}.png"
            seed = seed_of(name, request.seeds[0]) + number
            tasks.append(Task(name, output, seed, text, files, fault))
    return tasks


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _by_stem(names: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(_stem(name), []).append(name)
    return found


def _same(name: str, others: Mapping[str, list[str]]) -> str | None:
    """The image of this name; of several with other suffixes, the one with the same, else the first."""
    found = others.get(_stem(name), [])
    return name if name in found else next(iter(found), None)


def _outputs(names: list[str]) -> list[str]:
    """The names of the pictures without their suffix: those of the images, where two are the same with the suffix."""
    stems = [_stem(name) for name in names]
    often = Counter(stem.casefold() for stem in stems)
    whole = {name.casefold() for name, stem in zip(names, stems, strict=True) if often[stem.casefold()] > 1}
    return [
        name if often[stem.casefold()] > 1 or stem.casefold() in whole else stem
        for name, stem in zip(names, stems, strict=True)
    ]


def _prompt(path: Path, name: str, prompt: str | None, prompts: Mapping[str, str] | None) -> tuple[str, list[str]]:
    """The prompt of an image, and what is wrong with it."""
    if prompts is not None:
        found = prompts.get(name, prompts.get(_stem(name)))
        return (found, []) if found is not None else ("", ["the file of prompts does not name it"])
    if prompt is not None:
        return prompt, []
    caption = path.with_suffix(".txt")
    try:
        return " ".join(caption.read_text(encoding="utf-8-sig").split()), []
    except FileNotFoundError:
        return "", [f"it has no prompt: give one, or write {caption.name} beside it"]
    except (OSError, UnicodeDecodeError) as error:
        return "", [f"its caption {caption.name} cannot be read as text: {error}"]
