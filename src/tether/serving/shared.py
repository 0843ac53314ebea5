"""The jobs that several processes draw from, in PostgreSQL.

A process that takes a job has a lease on it, which it renews while it draws. When a process ends, so do its leases, and
its jobs are queued again. All times are of the database's clock: those of the processes may differ.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from sqlalchemy import Float, Select, cast, delete, extract, func, select, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session

from tether.errors import TetherError
from tether.serving.hub import Live
from tether.serving.store import JobStore
from tether.serving.tables import Job, Lease

__all__ = ["Seen", "SharedJobStore", "database_url"]

DRIVER = "postgresql+pg8000"
CONNECTIONS = 4
"""Open connections of a process that stay open."""
MORE = 12
"""Connections beside them while many clients ask at once."""
PATIENCE = 30
"""Seconds after which a database that does not answer counts as gone."""


@dataclass(frozen=True)
class Seen:
    """A job as another process sees it.

    Attributes:
        state: of the job.
        mine: whether this process draws it.
        live: where it is, while it runs.
        waiting: how many jobs wait or run; of one that waits.
    """

    state: str
    mine: bool = False
    live: Live | None = None
    waiting: int = 0


class SharedJobStore(JobStore):
    """A store that several processes draw from.

    Args:
        url: of the database.
        lease: seconds after which a process that does not renew its leases loses them.

    Attributes:
        holder: the name of this process.

    Raises:
        TetherError: as `JobStore`.
    """

    def __init__(self, url: str, lease: float) -> None:
        self.holder, self.lease = f"{socket.gethostname()[:40]}-{os.getpid()}-{uuid4().hex[:8]}", lease
        options: dict[str, Any] = {}
        if not url.startswith("sqlite"):
            options = {"pool_size": CONNECTIONS, "max_overflow": MORE, "pool_pre_ping": True}
            options["connect_args"] = {"timeout": PATIENCE, "application_name": "tether"}
        super().__init__(url, **options)

    def _now(self) -> Any:
        return time.time() if self._sqlite else cast(extract("epoch", func.clock_timestamp()), Float)

    def _taken(self, session: Session, jobs: Sequence[Job]) -> None:
        for job in jobs:
            session.add(Lease(id=job.id, holder=self.holder, until=self._now() + self.lease))

    def _left(self, session: Session, jobs: Sequence[Job]) -> None:
        if jobs:
            session.execute(delete(Lease).where(Lease.id.in_([job.id for job in jobs])))

    def _mine(self, query: Select[Job]) -> Select[Job]:
        return query.where(Job.id.in_(select(Lease.id).where(Lease.holder == self.holder)))

    def _lost(self, query: Select[Job]) -> Select[Job]:
        return query.where(Job.id.not_in(select(Lease.id).where(Lease.until > self._now())))

    # What a process that draws does.

    def renew(self, drawn: Mapping[str, Live]) -> None:
        """Renews the leases that this process still has, and says where their jobs are."""
        with self._write() as session:
            until = self._now() + self.lease
            for id in sorted(drawn):
                live = drawn[id]
                told = {"until": until, "step": live.step, "steps": live.steps, "preview": live.preview}
                session.execute(update(Lease).where(Lease.id == id, Lease.holder == self.holder).values(told))

    def orders(self, ids: Collection[str]) -> dict[str, tuple[bool, int]]:
        """What is asked of jobs that this process draws: whether to end, and `Lease.wanted`.

        Returns:
            By id; a job that is not its any more is missing.
        """
        query = select(Job.id, Job.cancelling, Lease.wanted).join(Lease, Lease.id == Job.id)
        with self._read() as session:
            found = session.execute(query.where(Lease.id.in_(ids), Lease.holder == self.holder))
            return {id: (cancelling, wanted) for id, cancelling, wanted in found}

    # What a process that answers does.

    def watch(self, ids: Mapping[str, bool]) -> dict[str, Seen]:
        """Jobs that clients follow, wherever they are drawn.

        Args:
            ids: of the jobs, each with whether previews are wanted.
        """
        query = select(Job.id, Job.state, Lease.holder, Lease.step, Lease.steps, Lease.wanted).outerjoin(
            Lease, Lease.id == Job.id
        )
        with self._read() as session:
            rows = session.execute(query.where(Job.id.in_(ids))).all()
            pictured = [row.id for row in rows if ids[row.id] and row.holder not in (None, self.holder)]
            previews = select(Lease.id, Lease.preview).where(Lease.id.in_(pictured))
            shown = dict(session.execute(previews).tuples().all()) if pictured else {}
        waiting = self.waiting() if any(row.state == "queued" for row in rows) else 0
        self._want({row.id: 1 + ids[row.id] for row in rows if row.holder and row.wanted < 1 + ids[row.id]})
        return {
            row.id: Seen(
                row.state,
                row.holder == self.holder,
                Live(row.step, row.steps, shown.get(row.id)) if row.holder and row.state == "running" else None,
                waiting if row.state == "queued" else 0,
            )
            for row in rows
        }

    def _want(self, wanted: Mapping[str, int]) -> None:
        """Tells who draws jobs that they are followed."""
        if wanted:
            with self._write() as session:
                for id in sorted(wanted):
                    session.execute(update(Lease).where(Lease.id == id).values(wanted=wanted[id]))

    def seconds_a_job(self) -> float | None:
        """The mean of the last jobs; None before the first."""
        last = (
            select((Job.ended - Job.started).label("seconds"))
            .where(Job.state == "done")
            .order_by(Job.ended.desc())
            .limit(20)
            .subquery()
        )
        with self._read() as session:
            return session.scalar(select(func.avg(last.c.seconds)))


def database_url(given: str) -> str:
    """The address of a database as SQLAlchemy has it.

    Args:
        given: postgresql://USER:PASSWORD@HOST:PORT/NAME; without a password that of the variable PGPASSWORD.

    Raises:
        TetherError: when it is no address of PostgreSQL; without saying the address, which may have a password.
    """
    try:
        url = make_url(given)
    except (ArgumentError, ValueError):
        raise TetherError("--database is no address: expected postgresql://USER:PASSWORD@HOST:PORT/NAME") from None
    if url.drivername not in ("postgresql", "postgres", DRIVER) or not url.database or not url.host:
        raise TetherError("--database is not of PostgreSQL: expected postgresql://USER:PASSWORD@HOST:PORT/NAME")
    if url.query:
        raise TetherError(f"--database has options that are not known: {', '.join(url.query)}: leave them out")
    password = url.password or os.environ.get("PGPASSWORD") or None
    made: URL = url.set(drivername=DRIVER, password=password)
    return made.render_as_string(hide_password=False)
