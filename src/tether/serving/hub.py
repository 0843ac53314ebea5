"""What happens now: the steps of running jobs, and who wants to hear of them.

The worker's thread reports, listeners on the event loop wait. Nothing is queued: a listener that wakes up late sees the
latest state, so that a slow client costs no memory and holds nothing up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Lock

__all__ = ["Hub", "Listener", "Live"]


@dataclass(frozen=True)
class Live:
    """Where a running job is.

    Attributes:
        step, steps: how many are done, of how many.
        preview: a small PNG of its first image, if someone wants it.
    """

    step: int = 0
    steps: int = 0
    preview: bytes | None = None


@dataclass(eq=False)
class Listener:
    """One client that follows a job; made and awaited on one event loop.

    Attributes:
        job: its id.
        preview: whether it wants previews.
    """

    job: str
    preview: bool
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """From any thread."""
        with suppress(RuntimeError):  # its loop is closed
            self._loop.call_soon_threadsafe(self._woken.set)

    async def wait(self, seconds: float) -> bool:
        """Waits until something changed since the last wait; False when nothing did for so long."""
        try:
            await asyncio.wait_for(self._woken.wait(), seconds)
        except TimeoutError:
            return False
        self._woken.clear()
        return True


class Hub:
    """The live state of jobs; safe to use from all threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._live: dict[str, Live] = {}
        self._elsewhere: dict[str, Live] = {}
        self._wanted: set[str] = set()
        self._cancelled: set[str] = set()
        self._listeners: set[Listener] = set()
        self.closed = False

    def live(self, job: str) -> Live | None:
        """Where a job is; None if it does not run."""
        return self._live.get(job) or self._elsewhere.get(job)

    def running(self) -> dict[str, Live]:
        """Where the jobs are that run in this process."""
        with self._lock:
            return dict(self._live)

    def begin(self, job: str) -> None:
        """A job runs from now on."""
        with self._lock:
            self._live[job] = Live()

    def report(self, job: str, live: Live) -> None:
        """A step of a running job is done."""
        with self._lock:
            if job not in self._live:
                return
            self._live[job] = live
        self.wake(job)

    def wake(self, job: str) -> None:
        """Something is new of a job."""
        with self._lock:
            heard = [one for one in self._listeners if one.job == job]
        for one in heard:
            one.wake()

    def see(self, lives: dict[str, Live]) -> None:
        """Where the jobs are that are followed here and run in other processes: all of them."""
        self._elsewhere = lives

    def end(self, job: str, *, remember: bool = False) -> None:
        """A job does not run any more; `remember` whether it was cancelled, while its batch still asks."""
        with self._lock:
            self._live.pop(job, None)
            self._wanted.discard(job)
            if not remember:
                self._cancelled.discard(job)

    def cancel(self, job: str) -> None:
        """Asks a running job to end."""
        with self._lock:
            if job in self._live:
                self._cancelled.add(job)

    def is_cancelled(self, job: str) -> bool:
        """Whether a running job was asked to end."""
        return job in self._cancelled

    def changed(self) -> None:
        """A job changed its state, and with it the places of others in the queue."""
        with self._lock:
            heard = list(self._listeners)
        for one in heard:
            one.wake()

    def close(self) -> None:
        """The server stops: every listener is told."""
        self.closed = True
        self.changed()

    @property
    def listeners(self) -> int:
        """How many there are."""
        return len(self._listeners)

    def wants_preview(self, job: str) -> bool:
        """Whether someone who follows a job wants previews."""
        with self._lock:
            return job in self._wanted or any(one.preview for one in self._listeners if one.job == job)

    def want_preview(self, job: str) -> None:
        """Someone who follows a running job in another process wants previews."""
        with self._lock:
            if job in self._live:
                self._wanted.add(job)

    def followed(self) -> dict[str, bool]:
        """The jobs that are followed here, each with whether previews are wanted."""
        with self._lock:
            wanted = {one.job for one in self._listeners if one.preview}
            return {one.job: one.job in wanted for one in self._listeners}

    @contextmanager
    def listen(self, job: str, preview: bool) -> Iterator[Listener]:
        """A listener for the time of the block; on an event loop."""
        one = Listener(job, preview)
        with self._lock:
            self._listeners.add(one)
        try:
            yield one
        finally:
            with self._lock:
                self._listeners.discard(one)
