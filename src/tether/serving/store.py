"""The jobs, in a database: the one truth about what was accepted and what became of it.

    queued -> running -> done | failed | cancelled
    queued <- running                                  the process ended while it was drawn

Every change is one transaction. SQLite is used with a write-ahead log, so that readers do not wait for writers, and a
commit is on disk before a client hears of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Float,
    Integer,
    String,
    Text,
    create_engine,
    delete,
    event,
    func,
    select,
    text,
)
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tether.errors import TetherError

__all__ = ["ENDED", "STATES", "Job", "JobStore", "NewJob", "QueueFull"]

STATES = ("queued", "running", "done", "failed", "cancelled")
ENDED = ("done", "failed", "cancelled")
"""The states that a job stays in."""
VERSION = 1
"""Of the tables."""
SOON = 2
"""A job that was begun this often without an end waits for all others: it may be what ended the process."""


class _Table(DeclarativeBase):
    pass


class Job(_Table):
    """A job.

    Attributes:
        number: its place in the order of acceptance.
        id: its name, which cannot be guessed.
        state: one of `STATES`.
        key, digest: the client's `Idempotency-Key`, and SHA-256 of what it sent with it.
        prompt: the first characters of it, for lists.
        count: images that were asked for.
        alike: equal for jobs that can be drawn as one batch; "" for one that is drawn alone.
        batch: the batch in which it is, or was last, drawn.
        attempts: how often it was begun.
        cancelling: whether it should end as cancelled.
        created, started, ended: seconds since 1970, UTC.
        images, maps: files that it has.
        size: their bytes, and those of its request.
        error, field: why it failed.
    """

    __tablename__ = "jobs"

    number: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    id: Mapped[str] = mapped_column(String(32), unique=True)
    state: Mapped[str] = mapped_column(String(9), index=True, default="queued")
    key: Mapped[str | None] = mapped_column(String(255), unique=True, default=None)
    digest: Mapped[str] = mapped_column(String(64), default="")
    prompt: Mapped[str] = mapped_column(Text, default="")
    count: Mapped[int] = mapped_column(Integer, default=1)
    alike: Mapped[str] = mapped_column(String(64), default="")
    batch: Mapped[str | None] = mapped_column(String(32), default=None)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    cancelling: Mapped[bool] = mapped_column(default=False)
    created: Mapped[float] = mapped_column(Float)
    started: Mapped[float | None] = mapped_column(Float, default=None)
    ended: Mapped[float | None] = mapped_column(Float, index=True, default=None)
    images: Mapped[int] = mapped_column(Integer, default=0)
    maps: Mapped[int] = mapped_column(Integer, default=0)
    size: Mapped[int] = mapped_column(BigInteger, default=0)
    error: Mapped[str | None] = mapped_column(Text, default=None)


@dataclass(frozen=True)
class NewJob:
    """A job to add; see `Job`."""

    id: str
    prompt: str
    count: int = 1
    alike: str = ""
    key: str | None = None
    digest: str = ""


class QueueFull(TetherError):
    """As many jobs wait as may."""


class JobStore:
    """The jobs of a server.

    Args:
        url: of the database, as SQLAlchemy has it.

    Raises:
        TetherError: when it cannot be opened, is damaged, or was written by a later version.
    """

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url)
        self._sqlite = self._engine.dialect.name == "sqlite"
        if self._sqlite:
            event.listen(self._engine, "connect", _prepare_sqlite)
        try:
            _Table.metadata.create_all(self._engine)
            self._check_version()
        except DatabaseError as error:
            raise TetherError(
                f"the database of jobs cannot be used: {str(error.orig or error).splitlines()[0]}"
            ) from None

    @classmethod
    def at(cls, path: Path) -> JobStore:
        """The store in a file of SQLite, made if it does not exist."""
        return cls(f"sqlite:///{path}")

    def _check_version(self) -> None:
        if not self._sqlite:
            return
        with self._engine.connect() as connection:
            found = connection.execute(text("PRAGMA user_version")).scalar_one()
            if found > VERSION:
                raise TetherError("the database of jobs was written by a later version of Tether: use that")
            connection.execute(text(f"PRAGMA user_version = {VERSION}"))
            connection.commit()

    def close(self) -> None:
        """Closes every connection."""
        self._engine.dispose()

    def check(self) -> str | None:
        """What is wrong with the database; None if it is whole."""
        if not self._sqlite:
            return None
        with self._read() as session:
            found = session.execute(text("PRAGMA integrity_check")).scalar_one()
        return None if found == "ok" else str(found)

    @contextmanager
    def _read(self) -> Iterator[Session]:
        with Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def _write(self) -> Iterator[Session]:
        """A transaction that has the right to write from its start, so that what it reads stays true."""
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            if self._sqlite:
                session.execute(text("BEGIN IMMEDIATE"))
            yield session

    # What clients do.

    def add(self, new: NewJob, most: int) -> tuple[Job, bool]:
        """Adds a job to the queue.

        Args:
            new: the job. With a `key` that another job has, that job is given back.
            most: how many may wait or run.

        Returns:
            The job, and whether it is new.

        Raises:
            QueueFull: when there are as many.
        """
        with self._write() as session:
            if new.key is not None:
                known = session.scalar(select(Job).where(Job.key == new.key))
                if known is not None:
                    return known, False
            if _count(session, "queued", "running") >= most:
                raise QueueFull(f"{most} jobs wait already")
            job = Job(**vars(new), created=time.time())
            session.add(job)
            session.flush()
        return job, True

    def get(self, id: str) -> Job | None:
        """A job by its id."""
        with self._read() as session:
            return session.scalar(select(Job).where(Job.id == id))

    def of_key(self, key: str) -> Job | None:
        """A job by its `Idempotency-Key`."""
        with self._read() as session:
            return session.scalar(select(Job).where(Job.key == key))

    def jobs(self, most: int, before: int | None = None, state: str | None = None) -> list[Job]:
        """The last jobs, newest first; those before a number."""
        query = select(Job).order_by(Job.number.desc()).limit(most)
        if before is not None:
            query = query.where(Job.number < before)
        if state is not None:
            query = query.where(Job.state == state)
        with self._read() as session:
            return list(session.scalars(query))

    def position(self, job: Job) -> int:
        """How many jobs are drawn before a queued one."""
        late = job.attempts >= SOON
        before = (Job.attempts < SOON) if late else (Job.attempts < SOON) & (Job.number < job.number)
        among = (Job.attempts >= SOON) & (Job.number < job.number) if late else before
        with self._read() as session:
            waiting = select(func.count()).where(Job.state == "queued", (before | among) if late else before)
            return session.scalar(waiting) or 0

    def counts(self) -> dict[str, int]:
        """How many jobs there are in each state."""
        with self._read() as session:
            found = dict(session.execute(select(Job.state, func.count()).group_by(Job.state)).tuples().all())
        return {state: found.get(state, 0) for state in STATES}

    def waiting(self) -> int:
        """How many jobs wait or run."""
        with self._read() as session:
            return _count(session, "queued", "running")

    def cancel(self, id: str) -> Job | None:
        """Cancels a queued job; a running one is marked, and ends between two steps. One that has ended stays so."""
        with self._write() as session:
            job = session.scalar(select(Job).where(Job.id == id))
            if job is not None and job.state == "queued":
                _end(job, "cancelled")
            elif job is not None and job.state == "running":
                job.cancelling = True
        return job

    # What the worker does.

    def claim(self, batch: str, most: int) -> list[Job]:
        """Takes the next job, and with it those that can be drawn in its batch.

        A batch whose drawing ended with the process is taken as it was, so that its images are the same to the byte.

        Args:
            batch: the name of a new batch.
            most: images of a batch of several jobs.

        Returns:
            The jobs, now running, in the order in which they are drawn; none if none waits.
        """
        with self._write() as session:
            order = ((Job.attempts >= SOON), Job.number)
            first = session.scalar(select(Job).where(Job.state == "queued").order_by(*order).limit(1))
            if first is None:
                return []
            jobs = self._company(session, first, most)
            for job in jobs:
                job.state, job.started, job.attempts = "running", time.time(), job.attempts + 1
                job.batch = first.batch or batch
        return jobs

    def _company(self, session: Session, first: Job, most: int) -> list[Job]:
        """The jobs of the first one's batch, itself among them."""
        queued = select(Job).where(Job.state == "queued").order_by(Job.number)
        if first.batch is not None:
            return list(session.scalars(queued.where(Job.batch == first.batch)))
        if not first.alike:
            return [first]
        alike = queued.where(Job.alike == first.alike, Job.batch.is_(None), Job.number > first.number).limit(most)
        jobs, images = [first], first.count
        for job in session.scalars(alike):
            if images + job.count <= most:
                jobs.append(job)
                images += job.count
        return jobs

    def finish(
        self, id: str, state: str, *, images: int = 0, maps: int = 0, size: int = 0, error: str | None = None
    ) -> Job | None:
        """Ends a running job."""
        with self._write() as session:
            job = session.scalar(select(Job).where(Job.id == id, Job.state == "running"))
            if job is not None:
                _end(job, state)
                job.images, job.maps, job.size, job.error = images, maps, size, error
        return job

    def put_back(self, ids: Sequence[str]) -> None:
        """Queues running jobs again, as if they had not been begun; the cancelled ones end."""
        with self._write() as session:
            for job in session.scalars(select(Job).where(Job.id.in_(ids), Job.state == "running")):
                _queue_again(job)
                job.attempts -= 1

    def recover(self, attempts: int) -> tuple[int, int]:
        """Queues again what was running when the process ended.

        Args:
            attempts: a job that was begun so often fails.

        Returns:
            How many jobs were queued again, and how many failed.
        """
        queued = failed = 0
        with self._write() as session:
            for job in session.scalars(select(Job).where(Job.state == "running")):
                if job.attempts >= attempts and not job.cancelling:
                    _end(job, "failed")
                    job.error = f"the server ended {job.attempts} times while it was drawn"
                    failed += 1
                else:
                    _queue_again(job)
                    queued += job.state == "queued"
        return queued, failed

    # What retention does.

    def expire(self, before: float, most: int) -> list[str]:
        """Removes ended jobs from the table: those that ended before a time, then the oldest until the rest has at most
        so many bytes.

        Returns:
            Their ids; their files can be deleted.
        """
        with self._write() as session:
            ended = select(Job.id, Job.ended, Job.size).where(Job.state.in_(ENDED)).order_by(Job.ended.desc())
            total, gone = 0, []
            for id, at, size in session.execute(ended):
                total += size
                if (at or 0) < before or total > most:
                    gone.append(id)
            for start in range(0, len(gone), 500):  # SQLite takes some thousand values a statement
                session.execute(delete(Job).where(Job.id.in_(gone[start : start + 500])))
        return gone

    def known(self, ids: Sequence[str]) -> set[str]:
        """Which of some ids are of jobs."""
        found: set[str] = set()
        with self._read() as session:
            for start in range(0, len(ids), 500):
                found.update(session.scalars(select(Job.id).where(Job.id.in_(ids[start : start + 500]))))
        return found


def _count(session: Session, *states: str) -> int:
    return session.scalar(select(func.count()).select_from(Job).where(Job.state.in_(states))) or 0


def _end(job: Job, state: str) -> None:
    job.state, job.ended, job.cancelling = state, time.time(), False


def _queue_again(job: Job) -> None:
    if job.cancelling:
        _end(job, "cancelled")
    else:
        job.state, job.started = "queued", None


def _prepare_sqlite(connection: Any, record: Any) -> None:
    """Of each new connection. Transactions are begun by the store, not by Python's module."""
    connection.isolation_level = None
    for line in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 30000", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {line}")
