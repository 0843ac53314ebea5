"""The jobs, in a database: the one truth about what was accepted and what became of it.

    queued -> running -> done | failed | cancelled
    queued <- running                                  the process ended while it was drawn

Every change is one transaction, and on disk before a client hears of it. SQLite is used with a write-ahead log, so that
readers do not wait for writers; `tether.serving.shared` is the store in PostgreSQL, which several processes draw from.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import Select, create_engine, delete, event, exists, func, or_, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, aliased

from tether.errors import TetherError
from tether.serving.tables import ENDED, STATES, VERSION, Folder, Job, Table

__all__ = ["ENDED", "STATES", "Job", "JobStore", "NewJob", "QueueFull"]

SOON = 2
"""A job that was begun this often without an end waits for all others: it may be what ended the process."""
ADDING, MAKING = 7_460_001, 7_460_002
"""PostgreSQL's advisory locks: one process adds a job, or makes the tables, at a time."""


@dataclass(frozen=True)
class NewJob:
    """A job to add; see `Job`."""

    id: str
    prompt: str
    count: int = 1
    alike: str = ""
    key: str | None = None
    digest: str = ""
    size: int = 0


class QueueFull(TetherError):
    """As many jobs wait as may."""


class JobStore:
    """The jobs of a server.

    Args:
        url: of the database, as SQLAlchemy has it.
        options: of SQLAlchemy's engine.

    Raises:
        TetherError: when it cannot be opened, is damaged, or was written by a later version.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._engine = create_engine(url, **options)
        self._sqlite = self._engine.dialect.name == "sqlite"
        if self._sqlite:
            event.listen(self._engine, "connect", _prepare_sqlite)
        try:
            with self._write(MAKING) as session:
                self._make(session)
        except DBAPIError as error:
            raise TetherError(f"the database of jobs cannot be used: {_line(error)}") from None

    @classmethod
    def at(cls, path: Path) -> JobStore:
        """The store in a file of SQLite, made if it does not exist."""
        return cls(f"sqlite:///{path}")

    def _make(self, session: Session) -> None:
        """Makes the tables that are missing."""
        connection = session.connection()
        Table.metadata.create_all(connection)
        for index in Table.metadata.tables["jobs"].indexes:  # an earlier version made the table without some
            index.create(connection, checkfirst=True)
        folder = session.get(Folder, 1)
        if folder is None:
            folder = Folder(number=1, name=uuid4().hex, version=VERSION)
            session.add(folder)
        found = session.execute(text("PRAGMA user_version")).scalar_one() if self._sqlite else folder.version
        if found > VERSION:
            raise TetherError("the database of jobs was written by a later version of Tether: use that")
        if self._sqlite:
            session.execute(text(f"PRAGMA user_version = {VERSION}"))

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

    def folder(self) -> str:
        """The name of the folder that the files of these jobs are in."""
        with self._read() as session:
            return session.scalar(select(Folder.name)) or ""

    @contextmanager
    def _read(self) -> Iterator[Session]:
        with Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def _write(self, alone: int | None = None) -> Iterator[Session]:
        """A transaction. SQLite's has the right to write from its start, so that what it reads stays true; others have
        what they lock, or with `alone` no other of the same number beside them."""
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            if self._sqlite:
                session.execute(text("BEGIN IMMEDIATE"))
            elif alone is not None:
                session.execute(select(func.pg_advisory_xact_lock(alone)))
            yield session

    # What a store does that several processes draw from; see `tether.serving.shared`.

    def _taken(self, session: Session, jobs: Sequence[Job]) -> None:
        """Jobs were claimed."""

    def _left(self, session: Session, jobs: Sequence[Job]) -> None:
        """Jobs do not run any more."""

    def _mine(self, query: Select[Job]) -> Select[Job]:
        """Of running jobs, those that this process draws."""
        return query

    def _lost(self, query: Select[Job]) -> Select[Job]:
        """Of running jobs, those that no process draws."""
        return query

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
        with self._write(ADDING) as session:
            if new.key is not None:
                known = session.scalar(select(Job).where(Job.key == new.key))
                if known is not None:
                    return known, False
            if _count(session, "queued", "running") >= most:
                raise QueueFull(f"{most} jobs wait or run already")
            job = Job(**vars(new) | {"prompt": _storable(new.prompt)}, created=time.time())
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
            job = session.scalar(select(Job).where(Job.id == id).with_for_update())
            if job is not None and job.state == "queued":
                _end(job, "cancelled")
            elif job is not None and job.state == "running":
                job.cancelling = True
        return job

    # What the worker does.

    def claim(self, batch: str, most: int) -> list[Job]:
        """Takes the next job, and with it those that can be drawn in its batch.

        A batch whose drawing ended with the process is taken as it was, so that its images are the same to the byte;
        when that has happened twice, its jobs are taken one by one.

        Args:
            batch: the name of a new batch.
            most: images of a batch of several jobs.

        Returns:
            The jobs, now running, in the order in which they are drawn; none if none waits.
        """
        with self._write() as session:
            first = self._first(session)
            if first is None:
                return []
            jobs = self._company(session, first, most)
            for job in jobs:
                job.state, job.started, job.attempts = "running", time.time(), job.attempts + 1
                job.batch = first.batch or batch
            self._taken(session, jobs)
        return jobs

    def _first(self, session: Session) -> Job | None:
        """The job that is next. Of a batch that was interrupted it is the first, so that no two processes share it."""
        other = aliased(Job)
        earlier = exists().where(other.state == "queued", other.batch == Job.batch, other.number < Job.number)
        waiting = _queued().where(or_(Job.batch.is_(None), ~earlier)).limit(1)
        first = session.scalar(waiting.where(Job.attempts < SOON))
        return first if first is not None else session.scalar(waiting.where(Job.attempts >= SOON))

    def _company(self, session: Session, first: Job, most: int) -> list[Job]:
        """The jobs of the first one's batch, itself among them. A late job is drawn alone: its batch may be what ends
        the process."""
        if first.attempts >= SOON:
            return [first]
        if first.batch is not None:
            return list(session.scalars(_queued().where(Job.batch == first.batch)))
        left = most - first.count  # images, and so jobs at most; no more are kept from other processes
        if not first.alike or left < 1:
            return [first]
        alike = _queued().where(Job.alike == first.alike, Job.batch.is_(None), Job.number > first.number).limit(left)
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
            job = session.scalar(self._mine(_running().where(Job.id == id)))
            if job is not None:
                _end(job, state)
                job.images, job.maps, job.size, job.error = images, maps, size, _storable(error)
                self._left(session, [job])
        return job

    def put_back(self, ids: Sequence[str]) -> None:
        """Queues running jobs again, as if they had not been begun; the cancelled ones end."""
        with self._write() as session:
            jobs = session.scalars(self._mine(_running().where(Job.id.in_(ids)))).all()
            for job in jobs:
                _queue_again(job)
                job.attempts -= 1
            self._left(session, jobs)

    def recover(self, attempts: int) -> tuple[int, int]:
        """Queues again what was running when the process that drew it ended.

        Args:
            attempts: a job that was begun so often fails.

        Returns:
            How many jobs were queued again, and how many failed.
        """
        queued = failed = 0
        with self._write() as session:
            jobs = session.scalars(self._lost(_running(skip=True))).all()
            for job in jobs:
                if job.attempts >= attempts and not job.cancelling:
                    _end(job, "failed")
                    job.error = f"the server ended {job.attempts} times while it was drawn"
                    failed += 1
                else:
                    _queue_again(job)
                    queued += job.state == "queued"
            self._left(session, jobs)
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


def _queued() -> Select[Job]:
    """Queued jobs in the order of acceptance, without those that another process is just taking."""
    return select(Job).where(Job.state == "queued").order_by(Job.number).with_for_update(skip_locked=True)


def _running(skip: bool = False) -> Select[Job]:
    return select(Job).where(Job.state == "running").with_for_update(skip_locked=skip)


def _storable(words: str | None) -> Any:
    """Text without the one character that PostgreSQL has no place for."""
    return words if words is None else words.replace("\0", " ")


def _line(error: DBAPIError) -> str:
    """What a database says, in one line."""
    said = error.orig.args[0] if error.orig is not None and error.orig.args else error
    return str(said.get("M", said) if isinstance(said, dict) else said).splitlines()[0]


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
