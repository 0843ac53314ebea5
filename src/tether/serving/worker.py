"""The one thread that draws.

It takes the next job from the store, draws it, writes its images, and only then says in the store that it is done. A
process that ends in between leaves a job that the next start draws again, with the same seeds, so that it gives the
same bytes.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from logging import ERROR, WARNING
from threading import Event, Thread
from typing import Any
from uuid import uuid4
from weakref import ReferenceType, ref

from PIL import Image
from sqlalchemy.exc import SQLAlchemyError

from tether.base import Base
from tether.errors import TetherError, is_out_of_memory
from tether.images import save_png
from tether.sampling import Cancelled, Drawn, Request, Session, Step
from tether.sampling.preview import LatentPreview
from tether.serving.acceptance import check_own_size, stored_request
from tether.serving.catalog import Catalog
from tether.serving.folders import JobFolders
from tether.serving.hub import Hub, Live
from tether.serving.log import log
from tether.serving.metrics import Metrics
from tether.serving.settings import Settings
from tether.serving.store import Job, JobStore

__all__ = ["Worker"]

IDLE = 1.0
"""Seconds after which an idle worker looks into the store, even if no one woke it."""
SHARED_IDLE = 0.25
"""The same where other processes put jobs into the store, which wakes no one here."""
RETRY = 30.0
"""Seconds after which an operator may have mended what drawing needs: the default base, room on the disk."""
OUT_OF_MEMORY = "out of memory: ask for a smaller size or count"


class _NotWritten(Exception):
    """The disk is full or not writable: no fault of the job that was drawn."""


class Worker(Thread):
    """Draws the jobs of a store, until it is stopped.

    Args:
        settings: of the server.
        store, folders: where jobs are kept.
        hub: hears of every step, and knows who cancelled.
        catalog: the models.
        metrics: what is counted.

    Attributes:
        ready: whether the default base is open.
        size: width and height of its own, once it is open.
        failure: why it could not be opened.
    """

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        folders: JobFolders,
        hub: Hub,
        catalog: Catalog,
        metrics: Metrics,
    ) -> None:
        super().__init__(name="tether-worker", daemon=True)
        self.ready, self.failure = False, ""
        self.size: tuple[int, int] | None = None
        self._settings, self._store, self._folders = settings, store, folders
        self._hub, self._catalog, self._metrics = hub, catalog, metrics
        self._session = Session(bases=settings.kept_bases, locate=catalog.locate)
        self._previews: tuple[ReferenceType[Base], LatentPreview] | None = None
        self._idle = IDLE if settings.database is None else SHARED_IDLE
        self._work, self._closing, self._abort = Event(), Event(), Event()
        self._unwritten = ""  # why the last images could not be written
        self._unsettled: list[str] = []  # jobs that run by the database, which did not answer when they ended

    def wake(self) -> None:
        """There is a new job."""
        self._work.set()

    def stop(self, grace: float) -> None:
        """Ends the thread: a job that runs may finish within `grace` seconds, else it is put back into the queue."""
        self._closing.set()
        self.wake()
        if self.is_alive():
            self.join(grace)
            self._abort.set()
            self.join()

    def why_not(self) -> str | None:
        """Why nothing is drawn now; None if jobs are."""
        if self.failure:
            return f"the base cannot be opened: {self.failure}"
        if not self.ready:
            return "the base is being opened"
        if not self.is_alive():
            return "the drawing thread has ended"
        return f"images cannot be written: {self._unwritten}" if self._unwritten else None

    @property
    def seconds_a_job(self) -> float:
        """The mean of the jobs so far; a guess before the first."""
        samples = {one.name: one.value for family in self._metrics.job_seconds.collect() for one in family.samples}
        count = samples.get("tether_job_seconds_count", 0)
        return samples["tether_job_seconds_sum"] / count if count else 5.0

    def run(self) -> None:
        """The thread."""
        self._open_default()
        if self.failure and self._settings.database is not None:
            return  # others can draw the jobs, which would fail here
        while self.failure and not self._closing.wait(RETRY):  # they stay in the queue
            self._open_default()
        while not self._closing.is_set():
            try:
                if self._unsettled:
                    self._store.put_back(self._unsettled)
                    self._unsettled = []
                jobs = self._store.claim(uuid4().hex, self._settings.batch)
                if jobs:
                    self._draw(jobs)
                else:
                    self._work.wait(self._idle)
                    self._work.clear()
            except _NotWritten as error:  # the jobs stay in the store
                log("disk", level=ERROR, error=error)
                self._closing.wait(RETRY)
            except Exception as error:  # the store is locked or the disk is full: the jobs stay in it
                log("worker", level=ERROR, error=error)
                self._closing.wait(IDLE)

    def _open_default(self) -> None:
        settings = self._settings
        request = Request(
            prompt="", base=settings.base, device=settings.device, dtype=settings.dtype, engine=settings.engine
        )
        try:
            side = self._session.open(request).base.sample_size
        except Exception as error:
            self.failure = self._line(error)
            log("not_ready", level=ERROR, error=error)
            return
        self.size, self.failure, self.ready = (side, side), "", True
        log("ready", base=settings.base)

    def _draw(self, jobs: Sequence[Job]) -> None:
        """Draws what was claimed; whatever happens, no job stays claimed."""
        for job in jobs:
            self._hub.begin(job.id)
            self._metrics.wait_seconds.observe(max(0.0, (job.started or job.created) - job.created))
        self._hub.changed()
        ids = [job.id for job in jobs]
        try:
            for id in ids:  # cancelled before the hub knew it
                found = self._store.get(id)
                if found is not None and found.cancelling:
                    self._hub.cancel(id)
            self._draw_each(jobs)
        finally:
            try:  # those that have ended are not touched: the others were stopped
                self._store.put_back(ids)
            except Exception:
                self._unsettled = ids
                raise
            finally:  # also when the database is away: leases that are not kept end
                for job in jobs:
                    self._hub.end(job.id)
                self._hub.changed()

    def _draw_each(self, jobs: Sequence[Job]) -> None:
        """Draws the jobs as one batch if they are several; those whose batch fails, one by one."""
        if len(jobs) > 1 and not self._abort.is_set():
            try:
                jobs = self._draw_together(jobs)
            except Cancelled:
                jobs = [] if self._abort.is_set() else jobs
            except (SQLAlchemyError, _NotWritten):
                raise
            except Exception as error:  # one of them, or their number: alone, each gets its own answer
                log("batch", level=WARNING, error=error, jobs=[job.id for job in jobs])
        for job in jobs:
            if self._abort.is_set():
                return
            self._metrics.batch_size.observe(1)
            self._guarded([job], lambda job=job: self._draw_one(job))

    def _draw_together(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Draws jobs as one batch; those that were cancelled are drawn too, so that the others stay as they are.

        Returns:
            The jobs that are still to be drawn alone.
        """
        requests = [self._prepared(job) for job in jobs]
        drawn = self._session.draw_together(
            requests,
            on_step=self._listener(jobs, requests),
            cancel=lambda: self._abort.is_set() or all(self._hub.is_cancelled(job.id) for job in jobs),
        )
        if drawn is None:
            return jobs
        self._metrics.batch_size.observe(len(jobs))
        for job, request, images in zip(jobs, requests, drawn, strict=True):
            self._guarded([job], lambda one=(job, request, images): self._write_unless_cancelled(*one))
        return []

    def _write_unless_cancelled(self, job: Job, request: Request, drawn: Sequence[Drawn]) -> None:
        if self._hub.is_cancelled(job.id):
            raise Cancelled("cancelled")
        self._write(job, request, drawn)

    def _guarded(self, jobs: Sequence[Job], draw: Callable[[], None]) -> None:
        """Runs `draw`; what it raises is the end of its jobs. What the database or the disk does is not: they are
        drawn again."""
        try:
            draw()
        except Cancelled:
            if not self._abort.is_set():
                self._end(jobs, "cancelled")
        except (SQLAlchemyError, _NotWritten):
            raise
        except Exception as error:
            line = self._line(error)
            expected = isinstance(error, TetherError) or line == OUT_OF_MEMORY
            log("failed", level=ERROR, error=None if expected else error, jobs=[job.id for job in jobs], line=line)
            self._end(jobs, "failed", line)

    def _draw_one(self, job: Job) -> None:
        request = self._prepared(job)
        drawn = self._session.draw(
            request,
            on_step=self._listener([job], [request]),
            cancel=lambda: self._abort.is_set() or self._hub.is_cancelled(job.id),
        )
        self._write(job, request, drawn)

    def _prepared(self, job: Job) -> Request:
        """The request of a job, ready to be drawn.

        Raises:
            TetherError: when it cannot be drawn, or its base's own size has too many pixels.
        """
        request = self._session.prepare(stored_request(self._folders.request(job.id)))
        check_own_size(request.size or (0, 0), self._settings.limits.pixels)
        return request

    def _listener(self, jobs: Sequence[Job], requests: Sequence[Request]) -> Callable[[Step], None]:
        """Reports the steps of a batch to those who follow its jobs."""
        last = time.perf_counter()

        def on_step(step: Step) -> None:
            nonlocal last
            now = time.perf_counter()
            self._metrics.steps.inc()
            self._metrics.step_seconds.observe(now - last)
            last, row = now, 0
            for job, request in zip(jobs, requests, strict=True):
                self._end_if_cancelled(job)
                preview = self._preview(request, step, row) if self._hub.wants_preview(job.id) else None
                self._hub.report(job.id, Live(step.index + 1, step.total, preview))
                row += request.count

        return on_step

    def _end_if_cancelled(self, job: Job) -> None:
        """Ends a job of a batch whose other jobs go on."""
        if self._hub.is_cancelled(job.id) and self._hub.live(job.id) is not None:
            self._end([job], "cancelled")

    def _preview(self, request: Request, step: Step, row: int) -> bytes:
        """A PNG, one pixel a latent pixel, of one image."""
        base = self._session.open(request).base
        if self._previews is None or self._previews[0]() is not base:
            self._previews = (ref(base), LatentPreview(base))
        (image,) = self._previews[1](step.denoised[row : row + 1])
        return _png(image)

    def _write(self, job: Job, request: Request, drawn: Sequence[Drawn]) -> None:
        """Writes the images of a job, then ends it."""
        maps = [image for control in request.controls for image in control.conditions]
        try:
            for index, image in enumerate(maps):
                save_png(image, self._folders.map(job.id, index))
            for index, one in enumerate(drawn):
                save_png(one.image, self._folders.image(job.id, index), one.metadata)
        except TetherError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno is None:  # of the image itself
                raise
            self._unwritten = cause.strerror
            raise _NotWritten(str(error)) from cause
        self._unwritten = ""
        self._metrics.images.inc(len(drawn))
        size = self._folders.size(job.id)
        self._end([job], "done", images=len(drawn), maps=len(maps), size=size)

    def _end(self, jobs: Sequence[Job], state: str, error: str | None = None, **values: Any) -> None:
        for job in jobs:
            values.setdefault("size", self._folders.size(job.id))
            ended = self._store.finish(job.id, state, error=error, **values)
            self._hub.end(job.id, remember=True)  # also while others of its claim are still drawn
            self._hub.changed()
            if ended is None:
                continue
            seconds = time.time() - (job.started or job.created)
            self._metrics.ended.labels(state).inc()
            self._metrics.job_seconds.observe(seconds)
            log(state, job=job.id, seconds=round(seconds, 3), images=values.get("images", 0), batch=job.batch)

    def _line(self, error: Exception) -> str:
        """One line for the client; of what was not expected, no more than that."""
        if is_out_of_memory(error):
            return OUT_OF_MEMORY
        if isinstance(error, TetherError):
            line = str(error).splitlines()[0].replace(str(self._folders.root), "jobs")
            return self._catalog.without_paths(line)
        return f"internal error ({type(error).__name__}): see the server's log"


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
