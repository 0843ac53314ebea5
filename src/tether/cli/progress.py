"""Progress on a terminal, nothing in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from tether.sampling import Step
    from tether.training.events import Progress

__all__ = ["count_bar", "step_bar", "training_line"]


@contextmanager
def _bar() -> Iterator[Bar | None]:
    """A rich progress display on standard error, or None where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        yield bar


@contextmanager
def step_bar() -> Iterator[Callable[[Step], None] | None]:
    """Yields an `on_step` callback that moves a bar."""
    with _bar() as bar:
        if bar is None:
            yield None
            return
        task = bar.add_task("drawing", total=None)
        yield lambda step: bar.update(task, completed=step.index + 1, total=step.total)


@contextmanager
def count_bar(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Yields a callback (done, total) that moves a bar."""
    with _bar() as bar:
        if bar is None:
            yield None
            return
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def training_line() -> Iterator[tuple[Callable[[Progress], None] | None, Callable[[str, int, int], None] | None]]:
    """Yields what `tether.training.run.train` tells: progress of steps, and of the data before them."""
    with _bar() as bar:
        if bar is None:
            yield None, None
            return
        task = bar.add_task("preparing", total=None)
        obedience = ""

        def on_progress(progress: Progress) -> None:
            nonlocal obedience
            if progress.look is not None:
                obedience = f", obedience {progress.look.obedience:.2f}"
            words = f"loss {progress.loss:.4f}, {progress.samples_per_second:.1f} samples/s{obedience}"
            bar.update(task, description=words, completed=progress.step, total=progress.steps)

        def on_stage(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield on_progress, on_stage
