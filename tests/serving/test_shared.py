"""Jobs that several processes draw: by leases, in either database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread

import pytest
from sqlalchemy import update

from tether.errors import TetherError
from tether.sampling import Request, Session
from tether.serving import Settings
from tether.serving.hub import Hub, Live
from tether.serving.keeper import Keeper
from tether.serving.scaling import ByQueue
from tether.serving.service import Service
from tether.serving.shared import SharedJobStore, database_url
from tether.serving.store import JobStore, NewJob
from tether.serving.tables import Lease

Open = Callable[[], SharedJobStore]
SMALL = {"prompt": "x", "steps": 3, "seed": 1}


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database."""
    return request.getfixturevalue("database") if request.param == "postgres" else f"sqlite:///{tmp_path / 'shared'}"


@pytest.fixture
def opened(address: str) -> Iterator[Open]:
    """Opens the store as one more process would."""
    stores: list[SharedJobStore] = []

    def open_store() -> SharedJobStore:
        stores.append(SharedJobStore(address, lease=60))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


def lose_leases(store: SharedJobStore) -> None:
    with store._write() as session:
        session.execute(update(Lease).values(until=1.0))


def add(store: JobStore, id: str, alike: str = "") -> None:
    store.add(NewJob(id, "x", 1, alike), 1000)


def test_every_job_is_taken_once_whoever_takes_it(opened: Open) -> None:
    stores = [opened() for _ in range(4)]
    for k in range(40):
        add(stores[0], f"{k}", alike="a" if k % 2 else "")

    def draw(store: SharedJobStore) -> list[str]:
        taken = []
        while jobs := store.claim("batch", 3):
            for job in jobs:
                assert store.finish(job.id, "done") is not None
                taken.append(job.id)
        return taken

    with ThreadPoolExecutor(4) as pool:
        taken = [id for each in pool.map(draw, stores) for id in each]
    assert sorted(taken) == sorted(f"{k}" for k in range(40))
    assert all(job.attempts == 1 for job in stores[0].jobs(100))


def test_a_job_of_a_process_that_is_gone_is_given_to_another(opened: Open) -> None:
    first, second = opened(), opened()
    add(first, "a")
    assert first.claim("x", 1)[0].id == "a"
    assert second.recover(10) == (0, 0)  # its lease holds
    assert second.claim("y", 1) == []
    lose_leases(first)
    assert second.recover(10) == (1, 0)
    again = second.claim("y", 1)
    assert [(job.id, job.batch, job.attempts) for job in again] == [("a", "x", 2)]
    assert first.finish("a", "done", images=9) is None  # it comes back, too late
    first.put_back(["a"])
    assert second.finish("a", "done", images=1) is not None


def test_a_renewed_lease_holds(opened: Open) -> None:
    store = opened()
    add(store, "a")
    store.claim("x", 1)
    lose_leases(store)
    store.renew({"a": Live(1, 3)})
    assert store.recover(10) == (0, 0)
    assert store.orders(["a", "b"]) == {"a": (False, 0)}
    other = opened()
    lose_leases(store)
    other.renew({"a": Live(1, 3)})  # not its lease
    assert other.recover(10) == (1, 0)
    assert store.orders(["a"]) == {}


def test_an_interrupted_batch_is_never_split(opened: Open) -> None:
    stores = [opened() for _ in range(4)]
    for number in range(8):
        for k in range(4):
            add(stores[0], f"{number}-{k}", alike=f"{number}")
    while stores[0].claim(f"{stores[0].waiting()}-{time.monotonic_ns()}", 4):
        pass
    lose_leases(stores[0])
    stores[1].recover(10)

    def claim_all(store: SharedJobStore) -> list[list[str]]:
        return [[job.id for job in jobs] for jobs in iter(lambda: store.claim("new", 4), [])]

    with ThreadPoolExecutor(4) as pool:
        batches = sorted(batch for each in pool.map(claim_all, stores) for batch in each)
    assert batches == [[f"{number}-{k}" for k in range(4)] for number in range(8)]


def test_whoever_answers_sees_what_another_draws(opened: Open) -> None:
    drawing, answering = opened(), opened()
    add(answering, "a")
    add(answering, "b")
    drawing.claim("x", 1)
    assert answering.watch({"a": True, "b": False, "none": False})["b"].waiting == 2
    assert drawing.orders(["a"]) == {"a": (False, 2)}  # someone wants previews
    drawing.renew({"a": Live(2, 5, b"png")})
    seen = answering.watch({"a": True})["a"]
    assert (seen.state, seen.mine, seen.live) == ("running", False, Live(2, 5, b"png"))
    assert drawing.watch({"a": False})["a"].mine
    answering.cancel("a")
    assert drawing.orders(["a"])["a"][0]


def test_the_keeper_cancels_what_it_is_told_to_and_what_it_lost(opened: Open) -> None:
    drawing, answering, hub = opened(), opened(), Hub()
    keeper = Keeper(drawing, hub, 10)
    for name in ("kept", "cancelled", "lost"):
        add(drawing, name)
        drawing.claim(name, 1)
        hub.begin(name)
    answering.cancel("cancelled")
    with drawing._write() as session:
        session.execute(update(Lease).where(Lease.id == "lost").values(holder="another"))
    keeper.look()
    assert [hub.is_cancelled(name) for name in ("kept", "cancelled", "lost")] == [False, True, True]


def test_the_keeper_wakes_who_follows_a_job_elsewhere(opened: Open) -> None:
    drawing, answering, hub = opened(), opened(), Hub()
    add(drawing, "a")
    drawing.claim("x", 1)
    keeper = Keeper(answering, hub, 10)

    async def follow() -> None:
        with hub.listen("a", preview=False) as listener:
            keeper.look()
            assert await listener.wait(10)
            drawing.renew({"a": Live(4, 9)})
            keeper.look()
            assert await listener.wait(10)
            assert hub.live("a") == Live(4, 9)
            keeper.look()
            assert not await listener.wait(0.05)
        keeper.look()
        assert hub.live("a") is None

    asyncio.run(follow())


class Nobody:
    """Draws nothing."""

    seconds_a_job, size = 1.0, None

    def start(self) -> None: ...

    def wake(self) -> None: ...

    def why_not(self) -> str | None: ...

    def stop(self, grace: float) -> None: ...


def test_one_process_answers_and_another_draws(
    address: str, settings_at: Callable[..., Settings], tmp_path: Path, tiny_folder: Path
) -> None:
    settings = settings_at(tmp_path / "data", database=address)
    answering = Service(settings, lambda *_: Nobody())
    drawing = Service(settings)
    answering.start()
    drawing.start()
    try:
        job, _ = answering.submit(dict(SMALL))
        until = time.monotonic() + 60
        while (found := answering.job(job.id)).state != "done" and time.monotonic() < until:
            time.sleep(0.02)
        assert found.state == "done"
        (own,) = Session().run(Request(base=str(tiny_folder), **SMALL))
        from tether.images import open_image

        assert open_image(answering.folders.image(job.id, 0)).tobytes() == own.image.tobytes()
        long, _ = answering.submit(SMALL | {"steps": 100, "size": [128, 128]})
        while answering.view(answering.job(long.id)).progress is None and time.monotonic() < until:
            time.sleep(0.02)
        answering.cancel(long.id)
        while (found := answering.job(long.id)).state == "running" and time.monotonic() < until:
            time.sleep(0.02)
        assert found.state == "cancelled"
    finally:
        answering.stop()
        drawing.stop()


def test_a_stopping_process_gives_its_job_to_the_others(
    address: str, settings_at: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = settings_at(tmp_path / "data", database=address, grace=0.0)
    service = Service(settings)
    service.start()
    job, _ = service.submit(SMALL | {"steps": 100, "size": [256, 256]})
    until = time.monotonic() + 60
    while service.job(job.id).state != "running" and time.monotonic() < until:
        time.sleep(0.01)
    service.stop()
    store = SharedJobStore(address, lease=60)
    (again,) = store.claim("new", 1)
    assert (again.id, again.attempts) == (job.id, 1)
    store.close()


def test_files_of_another_database_are_not_touched(
    address: str, settings_at: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = settings_at(tmp_path / "data", database=address)
    Service(settings).close()
    Service(settings).close()
    with pytest.raises(TetherError, match="the jobs of another database"):
        Service(settings.model_copy(update={"database": f"sqlite:///{tmp_path / 'other'}"}))
    with pytest.raises(TetherError, match="give its --database"):
        Service(settings.model_copy(update={"database": None}))
    Service(settings_at(tmp_path / "alone")).close()
    with pytest.raises(TetherError, match="the jobs of one server"):
        Service(settings_at(tmp_path / "alone", database=address))


def test_files_without_a_job_are_deleted_when_no_one_can_be_adding_it(
    address: str, settings_at: Callable[..., Settings], tmp_path: Path
) -> None:
    service = Service(settings_at(tmp_path / "data", database=address), lambda *_: Nobody())
    service.folders.keep("unknown", "{}")
    service.expire()
    assert (service.folders.root / "unknown").is_dir()
    assert service.folders.sweep(service.store, older=1e-9) == 1
    service.close()


def test_a_database_that_goes_away_loses_nothing(opened: Open, address: str, request: pytest.FixtureRequest) -> None:
    if not address.startswith("postgres"):
        pytest.skip("SQLite is a file")
    postgres, store, stopped = request.getfixturevalue("postgres"), opened(), Event()
    accepted: list[str] = []

    def put() -> None:
        while not stopped.is_set():
            id = f"{time.monotonic_ns()}"
            try:
                add(store, id)
            except Exception:  # not accepted: the client hears so
                time.sleep(0.01)
            else:
                accepted.append(id)

    thread = Thread(target=put)
    thread.start()
    for _ in range(2):
        time.sleep(0.3)
        postgres.kill()
        postgres.start()
    time.sleep(0.3)
    stopped.set()
    thread.join()
    assert len(accepted) > 10
    assert store.known(accepted) == set(accepted)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nonsense", "is no address"),
        ("mysql://u:secret@h/d", "is not of PostgreSQL"),
        ("postgresql://u:secret@h", "is not of PostgreSQL"),
        ("postgresql:///d", "is not of PostgreSQL"),
        ("postgresql://u:secret@h:x/d", "is no address"),
        ("postgresql://u:secret@h/d?sslmode=require", "options that are not known: sslmode"),
    ],
)
def test_an_address_that_is_none_is_refused_without_its_password(given: str, said: str) -> None:
    with pytest.raises(TetherError, match=said) as refused:
        database_url(given)
    assert "secret" not in str(refused.value)


def test_a_database_that_does_not_answer_is_one_line(database: str) -> None:
    wrong = database_url(database.replace("tether-test", "wrong").replace("+pg8000", ""))
    with pytest.raises(TetherError, match="password authentication failed"):
        SharedJobStore(wrong, lease=15)
    with pytest.raises(TetherError, match="cannot be used: Can't create a connection"):
        SharedJobStore("postgresql+pg8000://u:p@127.0.0.1:1/d", lease=15)


@pytest.mark.parametrize(("waiting", "replicas"), [(0, 0), (1, 1), (8, 1), (9, 2), (80, 10)])
def test_there_is_a_replica_for_each_so_many_jobs(waiting: int, replicas: int) -> None:
    class Context:
        aggregated_metrics = {"jobs": {"one": float(waiting), "two": 0.0}}  # noqa: RUF012

    assert ByQueue(8)(Context())[0] == replicas
    Context.aggregated_metrics = {}
    Context.target_num_replicas = 3  # type: ignore[attr-defined]
    assert ByQueue(8)(Context())[0] == 3  # nothing is known yet
