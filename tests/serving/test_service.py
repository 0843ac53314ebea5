"""Service and worker: what is kept, what is deleted, what a failure leaves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tether.errors import TetherError
from tether.sampling import Session
from tether.serving import Limits, Models, Settings
from tether.serving.errors import Refused
from tether.serving.service import Service

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
    assert service.store.expire(time.time() + 1, 0) == [job.id]
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

    monkeypatch.setattr(Session, "draw", broken)
    ids = [service.submit(SMALL | {"prompt": prompt})[0].id for prompt in "abcd"]
    service.start()
    jobs = [finished(service, id) for id in ids]
    assert [job.state for job in jobs] == ["failed", "failed", "failed", "done"]
    assert "secret" not in jobs[0].error
    assert jobs[1].error == jobs[2].error
    assert "out of memory" in jobs[1].error
    assert service.why_not_ready() is None


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
