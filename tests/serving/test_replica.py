"""One replica, and who starts it, without a cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tether.serving import Settings
from tether.serving.service import Service
from tether.serving.store import NewJob

replicas = pytest.importorskip(
    "tether.serving.replicas", reason="needs Ray: pip install 'tether-control[ray]'", exc_type=ImportError
)


class FakeServe:
    """Ray Serve, as far as starting replicas goes."""

    def __init__(self, running: Any) -> None:
        self.running, self.started = running, False

    def status(self) -> Any:
        return SimpleNamespace(applications={replicas.APP: None} if self.started else {})

    def deployment(self, kind: type, **options: Any) -> Any:
        return SimpleNamespace(bind=kind)

    def run(self, replica: Any, **options: Any) -> None:
        self.running, self.started = replica, True

    def get_app_handle(self, name: str) -> Any:
        found = self.running.made_with()
        return SimpleNamespace(
            made_with=SimpleNamespace(remote=lambda: SimpleNamespace(result=lambda: found)),
        )


def test_a_replica_draws_what_a_server_accepted_and_says_what_it_is(
    settings_at: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_at(tmp_path / "data", database=f"sqlite:///{tmp_path / 'shared'}", token="0123456789abcdef")
    serve = FakeServe(None)
    monkeypatch.setattr(replicas, "serve", serve)
    monkeypatch.setattr(replicas, "join_cluster", lambda *_: False)
    service = Service(settings, lambda *of: replicas.Replicas(*of, replicas.Scale()))
    service.worker._deploy()
    assert service.worker.size == (64, 64)
    assert serve.running.made_with()[0].token is None
    job, _ = service.submit({"prompt": "x", "steps": 2, "seed": 1})
    until = time.monotonic() + 120
    while service.job(job.id).state != "done" and time.monotonic() < until:
        time.sleep(0.02)
    assert service.job(job.id).images == 1
    assert serve.running.record_autoscaling_stats() == {"jobs": 0.0}
    serve.running.check_health()
    other = Service(settings.model_copy(update={"batch": 3}), lambda *of: replicas.Replicas(*of, replicas.Scale()))
    with pytest.raises(replicas.TetherError, match="other settings"):
        other.worker._deploy()
    serve.running.__del__()
    with pytest.raises(RuntimeError, match="has ended"):
        serve.running.check_health()
    other.close()
    service.close()


def test_a_replica_whose_base_cannot_be_opened_is_none(settings_at: Callable[..., Settings], tmp_path: Path) -> None:
    settings = settings_at(tmp_path / "data", database=f"sqlite:///{tmp_path / 'shared'}", device="nonsense")
    store = replicas.SharedJobStore(settings.database, settings.lease)
    store.add(NewJob("a", "x"), 9)
    with pytest.raises(replicas.TetherError, match="the base cannot be opened"):
        replicas.Replica(settings, replicas.Scale())
    assert store.counts()["queued"] == 1  # for others
    assert not {"tether-worker", "tether-keeper"} & {thread.name for thread in threading.enumerate()}
    store.close()


def test_the_numbers_of_replicas_are_in_order() -> None:
    with pytest.raises(replicas.TetherError, match="4-2: the second number is less"):
        replicas.Scale(least=4, most=2)
