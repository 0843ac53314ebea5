"""Service and worker: what is kept, what is deleted, what a failure leaves."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy.exc import OperationalError

from tether.errors import TetherError
from tether.images import open_image
from tether.sampling import Session
from tether.serving import Limits, Models, Settings, worker
from tether.serving.errors import Refused
from tether.serving.service import Service
from tether.serving.worker import Worker

SMALL = {"prompt": "x", "steps": 2, "seed": 1}


@pytest.fixture
def service(settings_at: Callable[..., Settings], tmp_path: Path) -> Iterator[Service]:
    """One that does not draw until it is started."""
    made = Service(settings_at(tmp_path / "data", keep_bytes=10**9, limits=Limits(queue=4)))
    yield made
    made.stop()


def finished(service: Service, id: str) -> Any:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        job = service.job(id)
        if job.state not in ("queued", "running"):
            return job
        time.sleep(0.02)
    raise AssertionError("the job did not end")


def test_an_accepted_job_is_on_disk_before_the_client_hears_of_it(service: Service) -> None:
    job, created = service.submit(dict(SMALL))
    assert created
    assert '"seed": 1' in service.folders.request(job.id)


def test_a_refused_job_leaves_nothing(service: Service) -> None:
    for _ in range(4):
        service.submit(dict(SMALL))
    for values in (SMALL, SMALL | {"steps": -1}):
        with pytest.raises(Refused):
            service.submit(dict(values))
    assert len(list(service.folders.root.iterdir())) == 4


def test_a_key_is_answered_when_the_queue_is_full(service: Service) -> None:
    first = [service.submit(dict(SMALL), f"{k}")[0] for k in range(4)]
    again, created = service.submit(dict(SMALL), "0")
    assert (again.id, created) == (first[0].id, False)


def test_two_servers_do_not_share_a_folder(service: Service) -> None:
    with pytest.raises(TetherError, match="is used by another server"):
        Service(service.settings)


def test_what_no_job_knows_is_deleted_at_the_start(service: Service) -> None:
    job, _ = service.submit(dict(SMALL))
    (service.folders.root / "unknown").mkdir()
    (service.folders.root / "unknown" / "request.json").touch()
    (service.folders.root / ".unknown.0123abcd.part").mkdir()
    (service.folders.root / job.id / ".0.0123abcd.part.png").touch()
    service.folders.sweep(service.store)
    assert [path.name for path in service.folders.root.iterdir()] == [job.id]
    assert [path.name for path in (service.folders.root / job.id).iterdir()] == ["request.json"]


def test_ended_jobs_are_deleted_with_their_files(service: Service) -> None:
    job, _ = service.submit(dict(SMALL))
    service.cancel(job.id)
    service.expire()
    assert service.job(job.id).state == "cancelled"
    assert service.store.expire(0, service.folders.size(job.id)) == []
    assert service.store.expire(0, service.folders.size(job.id) - 1) == [job.id]  # it has its request's bytes
    service.folders.delete(job.id)
    assert list(service.folders.root.iterdir()) == []
    with pytest.raises(Refused, match="not kept any more"):
        service.job(job.id)


def test_an_unexpected_error_fails_its_job_and_no_other(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = Session.draw

    def broken(self: Session, request: Any, **options: Any) -> Any:
        errors = {"a": ValueError("secret"), "b": MemoryError(), "c": RuntimeError("CUDA out of memory")}
        if request.prompt in errors:
            raise errors[request.prompt]
        return draw(self, request, **options)

    def all_broken(self: Session, requests: Any, **options: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(Session, "draw", broken)
    monkeypatch.setattr(Session, "draw_together", all_broken)  # then each is drawn alone
    ids = [service.submit(SMALL | {"prompt": prompt})[0].id for prompt in "abcd"]
    service.start()
    jobs = [finished(service, id) for id in ids]
    assert [job.state for job in jobs] == ["failed", "failed", "failed", "done"]
    assert "secret" not in jobs[0].error
    assert jobs[1].error == jobs[2].error
    assert "out of memory" in jobs[1].error
    assert service.why_not_ready() is None


def test_a_job_has_ended_for_those_who_follow_it_while_others_of_its_claim_are_drawn(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, seen = Session.draw, {}

    def watched(self: Session, request: Any, **options: Any) -> Any:
        seen[request.prompt] = [service.hub.live(id) is not None for id in ids]
        return draw(self, request, **options)

    def broken(self: Session, requests: Any, **options: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(Session, "draw", watched)
    monkeypatch.setattr(Session, "draw_together", broken)  # then each is drawn alone
    ids = [service.submit(SMALL | {"prompt": prompt})[0].id for prompt in "ab"]
    service.start()
    assert [finished(service, id).state for id in ids] == ["done", "done"]
    assert seen == {"a": [True, True], "b": [False, True]}


def test_a_request_file_that_is_damaged_fails_its_job(service: Service) -> None:
    damaged, _ = service.submit(dict(SMALL))
    (service.folders.root / damaged.id / "request.json").write_text("{")
    missing, _ = service.submit(dict(SMALL))
    (service.folders.root / missing.id / "request.json").unlink()
    service.start()
    for job in (damaged, missing):
        assert finished(service, job.id).state == "failed"


def test_a_stop_puts_back_what_is_drawn(service: Service) -> None:
    job, _ = service.submit(SMALL | {"steps": 100, "count": 8})
    service.start()
    until = time.monotonic() + 60
    while service.hub.live(job.id) is None and time.monotonic() < until:
        time.sleep(0.01)
    service.drain()
    with pytest.raises(Refused, match="stopping"):
        service.submit(dict(SMALL))
    service.worker.stop(0)
    found = service.job(job.id)
    assert (found.state, found.attempts) == ("queued", 0)


def test_a_base_that_cannot_be_opened_is_not_ready(settings_at: Callable[..., Settings], tmp_path: Path) -> None:
    (tmp_path / "bases" / "broken").mkdir(parents=True)
    service = Service(settings_at(tmp_path / "data", base="broken", models=Models(bases=(tmp_path / "bases",))))
    service.start()
    until = time.monotonic() + 60
    while not service.worker.failure and time.monotonic() < until:
        time.sleep(0.01)
    why = service.why_not_ready() or ""
    assert "broken" in why
    assert str(tmp_path) not in why
    service.stop()
    with pytest.raises(TetherError, match="no base 'none' here"):
        Service(settings_at(tmp_path / "other", base="none"))


def test_a_server_whose_base_cannot_be_opened_leaves_the_jobs_of_a_shared_database_to_others(
    settings_at: Callable[..., Settings], tmp_path: Path
) -> None:
    service = Service(settings_at(tmp_path / "data", database=f"sqlite:///{tmp_path / 'shared'}", device="nonsense"))
    job, _ = service.submit(dict(SMALL))
    service.start()
    assert isinstance(service.worker, Worker)
    service.worker.join(60)
    assert not service.worker.is_alive()
    assert "the base cannot be opened" in (service.why_not_ready() or "")
    assert service.job(job.id).state == "queued"
    service.stop()


def test_health_says_ready_and_metrics_count(service: Service) -> None:
    job, _ = service.submit(dict(SMALL))
    service.start()
    assert finished(service, job.id).state == "done"
    text = service.metrics.text().decode()
    assert 'tether_jobs_ended_total{state="done"} 1.0' in text
    assert "tether_steps_total 2.0" in text
    assert 'tether_jobs{state="done"} 1.0' in text
    assert "process_resident_memory_bytes" in text
    assert service.worker.seconds_a_job > 0


def images(service: Service, id: str) -> list[bytes]:
    job = finished(service, id)
    assert job.state == "done", job.error
    return [open_image(service.folders.image(id, k)).tobytes() for k in range(job.images)]


def levels(one: bytes, other: bytes) -> int:
    pair = [np.frombuffer(each, np.uint8).astype(int) for each in (one, other)]
    return int(np.abs(pair[0] - pair[1]).max())


def test_jobs_that_are_alike_are_drawn_at_once_and_are_their_own(
    service: Service, settings_at: Callable[..., Settings], tmp_path: Path
) -> None:
    wanted = [{"prompt": prompt, "seed": k, "steps": 2} for k, prompt in enumerate(("a cube", "a ball", "a cat"))]
    together = [service.submit(values)[0].id for values in wanted]
    service.start()
    found = [images(service, id) for id in together]
    assert 'tether_batch_jobs_bucket{le="2.0"} 0.0' in service.metrics.text().decode()
    assert len({service.job(id).batch for id in together}) == 1
    single = Service(settings_at(tmp_path / "single", batch=1))
    single.start()
    alone = [images(single, single.submit(values)[0].id) for values in wanted]
    single.stop()
    assert all(levels(one[0], other[0]) <= 1 for one, other in zip(found, alone, strict=True))


def test_one_bad_job_of_a_batch_does_not_fail_the_others(service: Service) -> None:
    ids = [service.submit(SMALL | {"prompt": prompt})[0].id for prompt in "abc"]
    (service.folders.root / ids[1] / "request.json").write_text("{")
    service.start()
    assert [finished(service, id).state for id in ids] == ["done", "failed", "done"]


def test_a_job_of_a_batch_is_cancelled_alone(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [service.submit(SMALL | {"prompt": prompt, "steps": 6})[0].id for prompt in "ab"]
    report = service.hub.report

    def cancel_at_the_second(job: str, live: Any) -> None:
        report(job, live)
        if job == ids[0] and live.step == 2:
            service.cancel(ids[0])

    monkeypatch.setattr(service.hub, "report", cancel_at_the_second)
    service.start()
    assert [finished(service, id).state for id in ids] == ["cancelled", "done"]
    assert not service.folders.image(ids[0], 0).exists()


def test_an_interrupted_batch_gives_the_same_bytes(
    service: Service, settings_at: Callable[..., Settings], tmp_path: Path
) -> None:
    wanted = [SMALL | {"prompt": prompt, "steps": 20} for prompt in "abc"]
    first = [service.submit(values)[0].id for values in wanted[:2]]
    service.start()
    until = time.monotonic() + 60
    while not all(service.hub.live(id) for id in first) and time.monotonic() < until:
        time.sleep(0.005)
    service.worker.stop(0)
    service.close()
    again = Service(service.settings)
    later = again.submit(wanted[2])[0].id  # alike, and not of their batch
    again.start()
    interrupted = [images(again, id) for id in first]
    assert finished(again, later).batch != again.job(first[0]).batch
    again.stop()
    other = Service(settings_at(tmp_path / "other"))
    whole = [other.submit(values)[0].id for values in wanted[:2]]
    other.start()
    assert interrupted == [images(other, id) for id in whole]
    other.stop()


def test_jobs_whose_batch_ended_the_process_twice_are_drawn_one_by_one(service: Service) -> None:
    ids = [service.submit(SMALL | {"prompt": prompt})[0].id for prompt in "abc"]
    store = service.store
    for number in range(2):
        assert [job.id for job in store.claim(f"batch {number}", 8)] == ids
        assert store.recover(attempts=10) == (3, 0)  # the process was killed
    for id in ids:
        (job,) = store.claim("another", 8)
        assert (job.id, job.attempts) == (id, 3)


def test_a_database_that_fails_at_the_end_of_a_job_leaves_no_job_running(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, failing = service.store, ["finish", "finish", "put_back", "put_back"]

    def first_failing(name: str) -> Any:
        real = getattr(store, name)

        def called(*arguments: Any, **named: Any) -> Any:
            if name in failing:
                failing.remove(name)
                raise OperationalError("update", {}, Exception("database or disk is full"))
            return real(*arguments, **named)

        return called

    for name in set(failing):
        monkeypatch.setattr(store, name, first_failing(name))
    job, _ = service.submit(dict(SMALL))
    service.start()
    assert finished(service, job.id).state == "done"
    assert not failing


def test_a_job_that_is_cancelled_as_it_begins_is_cancelled(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = service.store.claim

    def claimed(*arguments: Any) -> Any:
        jobs = claim(*arguments)
        for job in jobs:
            service.cancel(job.id)
        return jobs

    monkeypatch.setattr(service.store, "claim", claimed)
    ids = [service.submit(SMALL | {"prompt": prompt})[0].id for prompt in "ab"]
    service.start()
    assert [finished(service, id).state for id in ids] == ["cancelled", "cancelled"]


def test_what_is_kept_is_looked_at_after_every_job_also_where_as_many_are_kept_as_before(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, looks = 10, 0

    def expire() -> int:
        nonlocal kept, looks
        gone, kept, looks = kept - 10, 10, looks + 1
        return gone

    def wait(seconds: float) -> bool:
        nonlocal kept
        kept += 1  # a job has ended
        return looks == 5 or kept > 20

    monkeypatch.setattr(service, "expire", expire)
    monkeypatch.setattr(service.store, "counts", lambda: {"done": kept})
    monkeypatch.setattr(service._stopped, "wait", wait)
    service._keep_house()
    assert looks == 5


def until(holds: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    assert holds()


def test_jobs_wait_for_a_base_that_cannot_be_opened(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, away = Session.open, True

    def sometimes(self: Session, request: Any) -> Any:
        if away:
            raise TetherError("the share is not mounted")
        return opened(self, request)

    monkeypatch.setattr(worker, "RETRY", 0.05)
    monkeypatch.setattr(Session, "open", sometimes)
    job, _ = service.submit(dict(SMALL))
    service.start()
    until(lambda: service.why_not_ready() == "the base cannot be opened: the share is not mounted")
    time.sleep(0.2)
    assert service.job(job.id).state == "queued"
    away = False
    assert finished(service, job.id).state == "done"
    assert service.why_not_ready() is None


def test_jobs_wait_for_room_on_a_full_disk(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    save, full = worker.save_png, True

    def sometimes(*arguments: Any) -> None:
        if full:
            said = f"{arguments[1]} cannot be written: No space left on device"
            raise TetherError(said) from OSError(errno.ENOSPC, "No space left on device")
        save(*arguments)

    monkeypatch.setattr(worker, "RETRY", 0.05)
    monkeypatch.setattr(worker, "save_png", sometimes)
    ids = [service.submit(SMALL | {"prompt": prompt})[0].id for prompt in "ab"]
    service.start()
    until(lambda: service.why_not_ready() == "images cannot be written: No space left on device")
    time.sleep(0.2)
    assert {service.job(id).state for id in ids} <= {"queued", "running"}
    full = False
    assert [finished(service, id).state for id in ids] == ["done", "done"]
    assert service.why_not_ready() is None
    assert {service.job(id).attempts for id in ids} == {1}


def test_a_failure_does_not_tell_where_the_server_keeps_its_jobs(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(image: Any, path: Path, *_: Any) -> None:
        raise TetherError(f"{path} cannot be written: its text is too long")

    monkeypatch.setattr(worker, "save_png", broken)
    job, _ = service.submit(dict(SMALL))
    service.start()
    found = finished(service, job.id)
    assert (found.state, found.error) == ("failed", f"jobs/{job.id}/0.png cannot be written: its text is too long")


def test_the_limit_of_pixels_holds_for_a_bases_own_size_too(
    settings_at: Callable[..., Settings], tmp_path: Path
) -> None:
    service = Service(settings_at(tmp_path / "data", limits=Limits(pixels=32 * 32)))
    early, _ = service.submit(dict(SMALL))  # before the base is open
    service.start()
    found = finished(service, early.id)
    assert (found.state, "own 64x64 pixels are above the limit of 1,024" in found.error) == ("failed", True)
    with pytest.raises(Refused, match="own 64x64 pixels") as caught:
        service.submit(dict(SMALL))
    assert caught.value.field == "size"
    small, _ = service.submit(SMALL | {"size": [32, 32]})
    assert finished(service, small.id).state == "done"
    service.stop()
