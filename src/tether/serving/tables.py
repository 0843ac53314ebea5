"""The tables of jobs, the same in SQLite and in PostgreSQL."""

from __future__ import annotations

from sqlalchemy import BigInteger, Float, Index, Integer, LargeBinary, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = ["ENDED", "STATES", "VERSION", "Folder", "Job", "Lease", "Table"]

STATES = ("queued", "running", "done", "failed", "cancelled")
ENDED = ("done", "failed", "cancelled")
"""The states that a job stays in."""
VERSION = 1
"""Of the tables."""


class Table(DeclarativeBase):
    pass


class Job(Table):
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
        size: their bytes, and those of its request, which alone counts before the end.
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

    __table_args__ = (Index("ix_jobs_next", "state", "number"),)


class Lease(Table):
    """The right of one process to draw a job, where several draw. A running job without one is given to another.

    Attributes:
        id: of the job.
        holder: the process.
        until: when it ends, in seconds since 1970 by the database's clock.
        step, steps: how many are done, of how many.
        wanted: 1 if someone follows the job, 2 if with previews.
        preview: a small PNG of its first image.
    """

    __tablename__ = "leases"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    holder: Mapped[str] = mapped_column(String(100))
    until: Mapped[float] = mapped_column(Float, index=True)
    step: Mapped[int] = mapped_column(Integer, default=0)
    steps: Mapped[int] = mapped_column(Integer, default=0)
    wanted: Mapped[int] = mapped_column(Integer, default=0)
    preview: Mapped[bytes | None] = mapped_column(LargeBinary, default=None)


class Folder(Table):
    """The one row that says which folder the files of these jobs are in: it has a file with the same name in it.

    Attributes:
        number: 1.
        name: random.
        version: of the tables.
    """

    __tablename__ = "folder"

    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(32))
    version: Mapped[int] = mapped_column(Integer)
