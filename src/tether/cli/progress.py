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
def training_line() -> Iterator[tuple[Callable[[Progress], None], Callable[[str, int, int], None] | None]]:
    """Yields what `tether.training.run.train` tells: progress of steps, and of the data before them.

    On a terminal a live line; in a pipe, or a log, a line on standard error for each look. When control appears is a
    line of its own in both.
    """
    with _bar() as bar:
        task = None if bar is None else bar.add_task("preparing", total=None)
        seen, said = -1, False

        def say(line: str) -> None:
            if bar is None:
                print(line, file=sys.stderr, flush=True)
            else:
                bar.console.print(line)

        def on_progress(progress: Progress) -> None:
            nonlocal seen, said
            look = progress.validation
            words = f"loss {progress.loss:.4f}, {progress.samples_per_second:.1f} samples/s"
            words += f", {_duration(progress.seconds_left)} left"
            if look is not None and look.fidelity is not None:
                words += f", fidelity {look.fidelity:.2f}"
            if bar is not None and task is not None:
                bar.update(task, description=words, completed=progress.step, total=progress.steps)
            elif look is not None and look.step != seen:
                say(f"step {progress.step} of {progress.steps}: {words}")
            seen = -1 if look is None else look.step
            if progress.appeared_at is not None and not said:
                said = True
                say(f"control appeared at step {progress.appeared_at}, and stays")

        def on_stage(what: str, done: int, total: int) -> None:
            if bar is not None and task is not None:
                bar.update(task, description=what, completed=done, total=total)

        yield on_progress, on_stage


def _duration(seconds: float) -> str:
    """ "3:07:20" of 11240 seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
