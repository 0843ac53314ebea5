"""A progress bar on a terminal, nothing in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tether.sampling import Step

__all__ = ["step_bar"]


@contextmanager
def step_bar(steps: int) -> Iterator[Callable[[Step], None] | None]:
    """Yields an `on_step` callback that moves a bar on standard error, or None where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("drawing", total=steps)

        def on_step(step: Step) -> None:
            progress.update(task, completed=step.index + 1, total=step.total)

        yield on_step
