"""What every API of the server does, whatever its wire format: take jobs, show them, end them, delete the old ones."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from logging import ERROR
from threading import Event, Thread
from typing import Any, Protocol, TypeVar
from uuid import uuid4

from anyio import CapacityLimiter, to_thread
from sqlalchemy.exc import SQLAlchemyError

from tether.errors import TetherError
from tether.files.lock import locked
from tether.sampling.together import alike
from tether.serving.acceptance import accept, check_own_size, digest_of
from tether.serving.catalog import Catalog
from tether.serving.errors import Refused, busy, invalid, not_found
from tether.serving.folders import DATABASE, JobFolders
from tether.serving.hub import Hub, Live
from tether.serving.keeper import Keeper
from tether.serving.log import log
from tether.serving.metrics import Metrics
from tether.serving.settings import Settings
from tether.serving.shared import SharedJobStore
from tether.serving.store import ENDED, Job, JobStore, NewJob, QueueFull
from tether.serving.views import JobView, ProgressView, job_view
from tether.serving.worker import Worker

__all__ = ["Drawing", "Service"]

Result = TypeVar("Result")
READERS = 2
"""Requests whose images are decoded or annotated at the same time; each may need some hundred MB."""
SHOWN = 200
"""Characters of a prompt in lists."""
HOUR = 3600.0


class Drawing(Protocol):
    """What draws the jobs of a service: a `Worker` of its own, or processes elsewhere.

    Attributes:
        seconds_a_job: about so long until a place in a full queue is free.
        size: what the base that is opened at the start draws by default; None until that is known.
    """

    @property
    def size(self) -> tuple[int, int] | None: ...

    @property
    def seconds_a_job(self) -> float: ...

    def start(self) -> None: ...

    def wake(self) -> None: ...

    def why_not(self) -> str | None: ...

    def stop(self, grace: float) -> None: ...


class Service:
    """The jobs of a server and what draws them.

    Args:
        settings: of the server.
        drawing: who draws, where it is not a thread of this process; made from the settings and the store.

    Raises:
        TetherError: when a folder or a database cannot be used, or another server uses it.
    """

    def __init__(self, settings: Settings, drawing: Callable[[Settings, JobStore], Drawing] | None = None) -> None:
        self.settings = settings
        self.catalog = Catalog(settings.models)
        self.catalog.find("bases", settings.base)
        self._held = ExitStack()
        self.folders = JobFolders(settings.data)
        self.hub = Hub()
        self.store, self.keeper = self._opened()
        self.metrics = Metrics(self.store.counts)
        self.worker: Drawing = (
            Worker(settings, self.store, self.folders, self.hub, self.catalog, self.metrics)
            if drawing is None
            else drawing(settings, self.store)
        )
        self.draining = False
        self.open_streams = 0  # changed on the event loop alone
        self._readers = CapacityLimiter(READERS)
        self._stopped = Event()

    def _opened(self) -> tuple[JobStore, Keeper | None]:
        """The store; of several processes with what keeps this one in step with them."""
        settings = self.settings
        if settings.database is not None:
            store = SharedJobStore(settings.database, settings.lease)
            self.folders.belong_to(store.folder())
            return store, Keeper(store, self.hub, settings.attempts)
        self._held.enter_context(locked(settings.data, "is used by another server: stop that, or give another --data"))
        self.folders.belong_to(None)
        return JobStore.at(settings.data / DATABASE), None

    def start(self) -> None:
        """Takes up what an earlier process left, and begins to draw."""
        if self.keeper is not None:
            self.keeper.start()
        else:
            queued, failed = self.store.recover(self.settings.attempts)
            swept = self.folders.sweep(self.store)
            if queued or failed or swept:
                log("recovered", queued=queued, failed=failed, leftovers=swept)
        self.expire()
        self.worker.start()
        Thread(target=self._keep_house, name="tether-retention", daemon=True).start()

    def drain(self) -> None:
        """From now on nothing is accepted, and streams of events end. Safe in a signal handler."""
        self.draining = True
        self.hub.close()

    def stop(self) -> None:
        """Ends or puts back what is drawn, and closes the store."""
        self.drain()
        self._stopped.set()
        self.worker.stop(self.settings.grace)
        if self.keeper is not None:
            self.keeper.stop()
        self.close()
        log("stopped")

    def close(self) -> None:
        """Closes the store and lets go of the folder, of a service that does not draw."""
        self.store.close()
        self._held.close()

    # Jobs.

    def check_room(self) -> None:
        """Refuses a job before it is read, when there is no room for it.

        Raises:
            Refused: 429, or 503 when the server stops.
        """
        if self.draining:
            raise busy("the server is stopping", 5, status=503)
        if self.store.waiting() >= self.settings.limits.queue:
            raise self._full()

    def _full(self) -> Refused:
        return busy(f"the queue is full: {self.settings.limits.queue} jobs wait or run", self.worker.seconds_a_job)

    def submit(self, values: dict[str, Any], key: str | None = None) -> tuple[Job, bool]:
        """Accepts a job: when this returns, it is on disk, and will be drawn. To be called by `read`.

        Args:
            values: the JSON of a `Request`.
            key: the client's `Idempotency-Key`; the same key gives the same job.

        Returns:
            The job, and whether it is new.

        Raises:
            Refused: when it cannot be accepted.
        """
        digest = digest_of(values) if key is not None else ""
        known = None if key is None else self.store.of_key(key)
        if known is not None:
            return self._same(known, digest), False
        self.check_room()
        accepted = accept(values, self.settings, self.catalog)
        id, request = uuid4().hex, accepted.request
        if request.size is None and request.base == self.settings.base and self.worker.size is not None:
            check_own_size(self.worker.size, self.settings.limits.pixels)
        new = NewJob(
            id, request.prompt[:SHOWN], request.count, alike(request), key=key, digest=digest, size=len(accepted.text)
        )
        self._keep(id, accepted.text)
        try:
            job, created = self.store.add(new, self.settings.limits.queue)
        except QueueFull:
            self.folders.delete(id)
            raise self._full() from None
        except SQLAlchemyError as error:  # whether it was added is not known: its files stay
            log("database", level=ERROR, error=error)
            raise busy("the database does not answer", 5, status=503) from None
        if not created:
            self.folders.delete(id)
            return self._same(job, digest), False
        log("accepted", job=id, count=request.count, steps=request.steps, controls=len(request.controls))
        self.worker.wake()
        return job, True

    def _keep(self, id: str, text: str) -> None:
        try:
            self.folders.keep(id, text)
        except TetherError as error:
            log("disk", level=ERROR, error=error)
            raise busy("the job cannot be kept: the disk is full or not writable", 30, status=503) from None

    @staticmethod
    def _same(job: Job, digest: str) -> Job:
        if job.digest != digest:
            raise invalid("Idempotency-Key", "the key was used for another request: take a new one")
        return job

    async def read(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Runs what decodes images in one of a few threads of their own; the others of the app stay free for answers
        that are short."""
        return await to_thread.run_sync(partial(function, *arguments), limiter=self._readers)

    def job(self, id: str) -> Job:
        """A job by its id.

        Raises:
            Refused: 404.
        """
        job = self.store.get(id) if re.fullmatch(r"[0-9a-f]{32}", id) else None
        if job is None:
            raise not_found(f"no job {id[:64]}: it was never accepted, or is not kept any more")
        return job

    def view(self, job: Job) -> JobView:
        """A job as clients see it."""
        live = self.live(job) if job.state == "running" else None
        progress = None if live is None else ProgressView(step=live.step, steps=live.steps)
        position = self.store.position(job) if job.state == "queued" else None
        return job_view(job, position, progress)

    def live(self, job: Job) -> Live | None:
        """Where a running job is, wherever that is."""
        live = self.hub.live(job.id)
        if live is None and isinstance(self.store, SharedJobStore):
            seen = self.store.watch({job.id: False}).get(job.id)
            return None if seen is None else seen.live
        return live

    def cancel(self, id: str) -> Job:
        """Ends a job that has not ended: a queued one at once, a running one between two steps.

        Raises:
            Refused: 404.
        """
        job = self.store.cancel(self.job(id).id)
        if job is None:
            raise not_found(f"no job {id[:64]}: it is not kept any more")
        if job.state == "running":
            self.hub.cancel(id)
        self.hub.changed()
        return job

    def stream_begins(self) -> None:
        """A stream of events is about to begin, until `stream_ended`; on the event loop.

        Raises:
            Refused: 503, when there are too many.
        """
        if self.open_streams >= self.settings.limits.listeners:
            raise Refused(503, "busy", "too many streams of events are open", retry_after=5)
        self.open_streams += 1

    def stream_ended(self) -> None:
        """A stream of events has ended; on the event loop."""
        self.open_streams -= 1

    # Health.

    def why_not_ready(self) -> str | None:
        """Why jobs are not drawn now; None if they are."""
        if self.draining:
            return "the server is stopping"
        if (why := self.worker.why_not()) is not None:
            return why
        try:
            self.store.waiting()
        except Exception as error:  # whatever the database says
            return f"the database cannot be read ({type(error).__name__})"
        return None

    # Retention.

    def expire(self) -> int:
        """Deletes ended jobs that are too old, or too many; how many these were."""
        settings = self.settings
        gone = self.store.expire(time.time() - settings.keep_days * 24 * HOUR, settings.keep_bytes)
        for id in gone:
            self.folders.delete(id)
            log("expired", job=id)
        if self.keeper is not None:
            self.folders.sweep(self.store, older=HOUR)
        return len(gone)

    def _keep_house(self) -> None:
        """Deletes what is too old, every hour and after jobs that ended."""
        ended = 0
        looked = time.monotonic()
        while not self._stopped.wait(5.0):
            try:
                now = sum(number for state, number in self.store.counts().items() if state in ENDED)
                if now > ended or time.monotonic() - looked > HOUR:
                    looked, ended = time.monotonic(), now - self.expire()
            except Exception as error:  # of the database or the disk: the next time may do
                log("retention", level=ERROR, error=error)
