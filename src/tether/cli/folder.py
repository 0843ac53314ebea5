"""`tether generate --control KIND=FOLDER`: a folder of images in, a folder of pictures out."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tether.cli.generate import listener
from tether.cli.options import GenerateOptions
from tether.cli.progress import loading
from tether.cli.requests import prompt_lines, request_of
from tether.cli.sources import is_image_file, same_file
from tether.cli.words import unknown_words
from tether.errors import TetherError
from tether.files.listing import image_names

if TYPE_CHECKING:
    from tether.sampling.folders import Result, Task

__all__ = ["draw_folders"]

SEED = "0"
"""Random seeds would draw everything again in each run."""


def draw_folders(options: GenerateOptions, folders: Mapping[int, Path]) -> None:
    """Draws each image of the first folder, those of the others beside it.

    Raises:
        TetherError: for what cannot be right, before anything is drawn.
        typer.Exit: with 1, when a picture failed.
    """
    _check(options, folders)
    prompts = None if options.prompts is None else _prompts_by_name(options.prompts)
    request = request_of(replace(options, seed=options.seed or SEED), options.prompt or "")
    from tether.sampling import Session
    from tether.sampling.folders import draw_folder, list_tasks

    if any(len(entry.conditions or entry.photos) > 1 for entry in request.controls):
        raise TetherError("a folder is drawn image by image: give each other control one image, or a folder too")
    tasks = list_tasks(folders, request, prompt=options.prompt, prompts=prompts, out=options.out)
    lines = _Lines(options)
    session = Session(notify=lines.notify)
    with loading():
        pipeline = session.open(session.prepare(request.model_copy(update={"count": 1, "seed": 0})))
    said = unknown_words(pipeline.base, list(dict.fromkeys(task.prompt for task in tasks)))
    if said is not None:
        print(said, file=sys.stderr)
    with listener(pipeline.base, options.preview) as on_step:
        for result in draw_folder(session, request, tasks, options.out, on_start=lines.start, on_step=on_step):
            lines.end(result)
    lines.close()


class _Lines:
    """What is printed: a line a picture that was drawn, one a failure, and the sum."""

    def __init__(self, options: GenerateOptions) -> None:
        self.options = options
        self.counts: Counter[str] = Counter()
        self.task: Task | None = None
        self.said: set[str] = set()
        self.failure = ""
        self.started = time.perf_counter()

    def notify(self, line: str) -> None:
        """A line about the image that is drawn; one that is about none in particular is told once."""
        if self.task is not None:
            named = line.startswith(f"{Path(self.task.input).name}: ")
            print(line if named else f"{self.task.input}: {line}", file=sys.stderr)
        elif line not in self.said:
            self.said.add(line)
            print(line, file=sys.stderr)

    def start(self, task: Task) -> None:
        """Called before a picture is drawn."""
        self.task, self.started = task, time.perf_counter()

    def end(self, result: Result) -> None:
        """Called with what became of a picture."""
        self.task = None
        self.counts[result.state] += 1
        if result.error is not None:
            line = f"{result.task.input}: skipped: {result.error}"
            if line != self.failure:  # once for all pictures of an image
                print(line, file=sys.stderr, flush=True)
            self.failure = line
        elif result.drawn is not None:
            print(self._line(result), flush=True)

    def _line(self, result: Result) -> str:
        if not self.options.as_json or result.drawn is None:
            return str(result.path)
        task, image = result.task, result.drawn.image
        values = {"input": task.input, "path": str(result.path), "seed": task.seed, "width": image.width}
        values |= {"height": image.height, "prompt": task.prompt}
        return json.dumps(values | {"seconds": round(time.perf_counter() - self.started, 3)})

    def close(self) -> None:
        """The sum.

        Raises:
            typer.Exit: with 1, when a picture failed.
        """
        names = {"drawn": "drawn", "kept": "were there", "failed": "failed"}
        sums = ", ".join(f"{self.counts[state]} {name}" for state, name in names.items() if self.counts[state])
        print(f"{sums}; {self.options.out / 'manifest.jsonl'} lists them", file=sys.stderr)
        if self.counts["failed"]:
            raise typer.Exit(1)


def _check(options: GenerateOptions, folders: Mapping[int, Path]) -> None:
    """Refuses what does not go with a folder."""
    first = next(iter(folders.values()))
    if options.grid:
        raise TetherError("--grid is not for folders: leave it out")
    if options.seed is not None and "," in options.seed:
        raise TetherError("a folder takes one --seed, from which each image gets its own by its name")
    if is_image_file(options.out):
        raise TetherError(f"--out {options.out} is a file: give a folder for the pictures of {first}")
    for folder in folders.values():
        if options.preview is not None and _counts(options.preview, folder, options.out):
            raise TetherError(f"--preview {options.preview} would be an image of {folder}: give another folder")
        if same_file(options.out, folder):
            raise TetherError(f"--out {options.out} is the folder of the images: give another name")
        if not image_names(folder, options.out):
            raise TetherError(f"{folder} has no image: expected .png, .jpg, .webp, ...")


def _counts(path: Path, folder: Path, out: Path) -> bool:
    """Whether a file would be one of the images of a folder: it lies in it, and not in that of the results there."""
    above, images, results = path.resolve().parents, folder.resolve(), out.resolve()
    return images in above and not (results in above and images in results.parents)


def _prompts_by_name(path: Path) -> dict[str, str]:
    """The prompts of a file of lines NAME<TAB>PROMPT."""
    found = {}
    for line in prompt_lines(path):
        name, tab, prompt = line.partition("\t")
        if not tab:
            raise TetherError(f"{path}: {line[:40]!r} has no tab: beside a folder, write NAME<TAB>PROMPT")
        found[name.strip()] = prompt.strip()
    return found
