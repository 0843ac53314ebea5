"""Answers that come when a job has ended, for wire formats without jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.concurrency import run_in_threadpool

from tether.serving.errors import Refused, invalid, not_found
from tether.serving.hub import Live
from tether.serving.service import Service
from tether.serving.store import ENDED, Job

__all__ = ["ended", "steps_of"]

LOOK = 5.0
"""Seconds after which a job is looked at even if nothing was heard of it."""


async def steps_of(
    service: Service, job: str, is_gone: Callable[[], Awaitable[bool]] | None = None
) -> AsyncIterator[Live | Job]:
    """Where a job is, each time that something changes; at last the job, done or cancelled. Arguments as of `ended`.

    Raises:
        Refused: 422 when it failed, 503 when the server stops.
    """
    with service.hub.listen(job, preview=True) as listener:
        while (found := await run_in_threadpool(service.store.get, job)) is not None and found.state not in ENDED:
            if service.hub.closed:
                said = f"the server is stopping: job {job} is drawn later"
                raise Refused(503, "busy", said, retry_after=30, accepted=True)
            if found.state == "queued" and is_gone is not None and await is_gone():
                await run_in_threadpool(service.cancel, job)
                continue
            live = service.hub.live(job)
            if live is not None:
                yield live
            await listener.wait(LOOK)
    if found is None:
        raise not_found(f"job {job} is not kept any more")
    if found.state == "failed":
        raise invalid(None, found.error or "the job failed")
    yield found


async def ended(service: Service, job: str, is_gone: Callable[[], Awaitable[bool]] | None = None) -> Job:
    """A job after its end, done or cancelled; errors as of `steps_of`.

    Args:
        service: the service.
        job: its id.
        is_gone: whether the client has gone, which cancels a job that still waits.
    """
    async for one in steps_of(service, job, is_gone):
        if isinstance(one, Job):
            return one
    raise AssertionError("the last one is the job")
