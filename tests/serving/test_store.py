"""Jobs in the database: order, batches, what survives, what expires."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import update

from tether.errors import TetherError
from tether.serving.shared import SharedJobStore
from tether.serving.store import Job, JobStore, NewJob, QueueFull
from tether.serving.tables import Lease


def new_store(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> JobStore:
    """The one process' store, or one of several processes, in either database."""
    if kind == "alone":
        return JobStore.at(tmp_path / "jobs.sqlite")
    if kind == "shared":
        return SharedJobStore(f"sqlite:///{tmp_path / 'jobs.sqlite'}", lease=60)
    return SharedJobStore(request.getfixturevalue("database"), lease=60)


@pytest.fixture(params=["alone", "shared", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobStore]:
    made = new_store(request.param, request, tmp_path)
    yield made
    made.close()


def lose_leases(store: JobStore) -> None:
    """As when the process that draws has ended, and time has passed."""
    if isinstance(store, SharedJobStore):
        with store._write() as session:
            session.execute(update(Lease).values(until=0))


def add(store: JobStore, id: str, alike: str = "", count: int = 1) -> Job:
    return store.add(NewJob(id, "x", count, alike), 100)[0]


def state(store: JobStore, id: str) -> str:
    job = store.get(id)
    assert job is not None
    return job.state


def test_jobs_are_taken_in_the_order_in_which_they_were_accepted(store: JobStore) -> None:
    jobs = [add(store, name) for name in "abc"]
    assert [store.position(job) for job in jobs] == [0, 1, 2]
    taken = [store.claim("batch", 1)[0].id for _ in range(3)]
    assert taken == ["a", "b", "c"]
    assert store.claim("batch", 1) == []
    assert store.counts() == {"queued": 0, "running": 3, "done": 0, "failed": 0, "cancelled": 0}


def test_the_queue_has_an_end_whoever_fills_it(store: JobStore) -> None:
    def put(k: int) -> bool:
        try:
            return store.add(NewJob(f"{k}", "x"), 5)[1]
        except QueueFull:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(put, range(20))) == 5
    store.claim("batch", 1)  # a running job has its place still
    assert not put(99)


def test_one_key_makes_one_job_whoever_asks_first(store: JobStore) -> None:
    def put(k: int) -> str:
        return store.add(NewJob(f"{k}", "x", key="same"), 100)[0].id

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(put, range(16)))) == 1
    assert store.waiting() == 1


def test_jobs_that_are_alike_are_taken_together_up_to_a_number_of_images(store: JobStore) -> None:
    add(store, "a", "1", 2)
    add(store, "b", "2")
    add(store, "c", "1", 3)
    add(store, "d", "1", 2)
    add(store, "e", "1", 1)
    assert [job.id for job in store.claim("x", 5)] == ["a", "c"]
    assert [job.id for job in store.claim("y", 5)] == ["b"]
    assert [job.id for job in store.claim("z", 5)] == ["d", "e"]
    add(store, "f", "")
    add(store, "g", "")
    assert [job.id for job in store.claim("w", 5)] == ["f"]  # "" is like nothing


def test_a_batch_that_was_interrupted_is_taken_as_it_was(store: JobStore) -> None:
    add(store, "a", "1")
    add(store, "b", "1")
    assert len(store.claim("first", 8)) == 2
    add(store, "c", "1")
    lose_leases(store)
    assert store.recover(10) == (2, 0)
    again = store.claim("second", 8)
    assert [(job.id, job.batch, job.attempts) for job in again] == [("a", "first", 2), ("b", "first", 2)]


def test_what_was_running_is_queued_again_and_what_was_cancelled_ends(store: JobStore) -> None:
    for name in "ab":
        add(store, name)
        store.claim(name, 1)
    store.cancel("b")
    assert state(store, "b") == "running"  # it ends between two steps
    lose_leases(store)
    assert store.recover(10) == (1, 0)
    assert (state(store, "a"), state(store, "b")) == ("queued", "cancelled")


def test_a_job_that_ends_the_process_waits_for_the_others_and_then_fails(store: JobStore) -> None:
    bad = add(store, "bad")
    good = add(store, "good")
    for _ in range(2):
        assert store.claim("x", 1)[0].id == "bad"
        lose_leases(store)
        store.recover(3)
    bad = store.get("bad") or bad
    assert (store.position(bad), store.position(good)) == (1, 0)
    assert store.claim("x", 1)[0].id == "good"
    store.finish("good", "done")
    assert store.claim("x", 1)[0].id == "bad"
    lose_leases(store)
    assert store.recover(3) == (0, 1)
    failed = store.get("bad")
    assert failed is not None
    assert failed.state == "failed"
    assert "3 times" in (failed.error or "")


def test_put_back_does_not_count_as_an_attempt(store: JobStore) -> None:
    add(store, "a")
    add(store, "b")
    store.claim("x", 1)
    store.claim("y", 1)
    store.finish("b", "done", images=1)
    store.put_back(["a", "b"])
    job = store.get("a")
    assert job is not None
    assert (job.state, job.attempts) == ("queued", 0)
    assert state(store, "b") == "done"


def test_a_job_that_has_ended_stays_as_it_is(store: JobStore) -> None:
    add(store, "a")
    store.cancel("a")
    assert store.finish("a", "done") is None
    assert state(store, "a") == "cancelled"
    assert store.cancel("none") is None


def test_the_oldest_ended_jobs_expire_by_age_and_by_size(store: JobStore) -> None:
    for name in "abcd":
        add(store, name)
        store.claim(name, 1)
        store.finish(name, "done", size=100)
    add(store, "waiting")
    last = store.get("d")
    assert last is not None
    assert last.ended is not None
    assert store.expire(0, 250) == ["b", "a"]
    assert store.expire(0, 250) == []
    assert store.expire(last.ended + 1, 10**9) == ["d", "c"]
    assert store.waiting() == 1
    assert store.known(["a", "waiting"]) == {"waiting"}


def test_the_log_is_written_ahead_and_the_file_is_whole(tmp_path: Path) -> None:
    store = JobStore.at(tmp_path / "jobs.sqlite")
    add(store, "a")
    with sqlite3.connect(tmp_path / "jobs.sqlite") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store.check() is None


def test_a_file_that_is_no_database_or_of_a_later_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"not a database, but as long as one needs to be" * 100)
    with pytest.raises(TetherError, match="not a database"):
        JobStore.at(tmp_path / "a")
    JobStore.at(tmp_path / "b").close()
    with sqlite3.connect(tmp_path / "b") as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(TetherError, match="later version"):
        JobStore.at(tmp_path / "b")
