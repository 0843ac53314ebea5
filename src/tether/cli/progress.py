"""Progress: bars on a terminal, lines on standard error elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from tether.sampling import Step
    from tether.training.events import Progress

__all__ = ["TrainingLine", "count_bar", "loading", "step_bar", "training_line"]

SECONDS_A_LINE = 10.0
"""Time between lines where there is no terminal."""


@contextmanager
def _bar() -> Iterator[Bar | None]:
    """A rich progress display on standard error, or None if that is not a terminal."""
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
        task = bar.add_task("generating", total=None)
        yield lambda step: bar.update(task, completed=step.index + 1, total=step.total)


@contextmanager
def count_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a callback (done, total) that moves a bar; without a terminal it prints a line every ten seconds."""
    with _bar() as bar:
        if bar is None:
            printed = time.monotonic()

            def report(done: int, total: int) -> None:
                nonlocal printed
                if time.monotonic() - printed > SECONDS_A_LINE:
                    printed = time.monotonic()
                    print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)

            yield report
            return
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class TrainingLine:
    """What `tether.training.run.train` reports: progress of the steps, and of the data before them.

    On a terminal it is one live line; elsewhere, a line on standard error for the first step, for each validation, and
    every ten seconds. Notes, and the step at which control appears, are lines of their own in both.
    """

    def __init__(self, bar: Bar | None) -> None:
        self.bar = bar
        self.task = None if bar is None else bar.add_task("preparing", total=None)
        self.validated = -1
        self.appeared = self.began = False
        self.stage = ""
        self.printed = time.monotonic()

    def on_note(self, line: str) -> None:
        """Called with what the user should know about the data."""
        self._print(line)

    def on_progress(self, progress: Progress) -> None:
        """Called after every step."""
        validation = progress.validation
        line = f"loss {progress.loss:.4f}, {progress.samples_per_second:.1f} samples/s"
        line += f", {_duration(progress.seconds_left)} left"
        if validation is not None and validation.fidelity is not None:
            line += f", fidelity {validation.fidelity:.2f}"
        validated = validation is not None and validation.step != self.validated
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, description=line, completed=progress.step, total=progress.steps)
        elif validated or not self.began or self._is_due():
            self._print(f"step {progress.step} of {progress.steps}: {line}")
        self.began, self.stage = True, ""
        self.validated = -1 if validation is None else validation.step
        if progress.appeared_at is not None and not self.appeared:
            self.appeared = True
            self._print(f"control appeared at step {progress.appeared_at}, and stays")

    def on_stage(self, what: str, done: int, total: int) -> None:
        """Called while data are prepared."""
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, description=what, completed=done, total=total)
        elif what != self.stage or self._is_due():
            self.stage = what
            self._print(f"{what}: {done} of {total}")

    def _is_due(self) -> bool:
        return time.monotonic() - self.printed > SECONDS_A_LINE

    def _print(self, line: str) -> None:
        self.printed = time.monotonic()
        if self.bar is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self.bar.console.print(line, markup=False, highlight=False)


@contextmanager
def training_line() -> Iterator[TrainingLine]:
    """Yields a `TrainingLine`."""
    with _bar() as bar:
        yield TrainingLine(bar)


def _duration(seconds: float) -> str:
    """Seconds as "3:07:20", or "7:20" below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


@contextmanager
def loading() -> Iterator[None]:
    """On a terminal, says that models are loaded while the block runs."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status("loading"):
        yield
