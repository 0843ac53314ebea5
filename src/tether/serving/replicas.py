"""Replicas: processes that draw from a shared store, started, watched and scaled by Ray Serve.

    this process      HTTP, no weights; puts jobs into the store, and follows them there
    a replica         no HTTP; takes jobs from the store by leases, with its base and controls in memory

Ray starts the replicas, starts another for one that dies, and decides how many there are by the number of jobs that
wait or run. No job passes through Ray: what Ray loses, the store still has.
"""

from __future__ import annotations

import time
from logging import ERROR
from threading import Thread

import torch
from pydantic import Field, model_validator
from ray import serve  # type: ignore[import-not-found]
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy  # type: ignore[import-not-found]

from tether.cluster import join_cluster, leave_cluster
from tether.errors import TetherError
from tether.serving.catalog import Catalog
from tether.serving.folders import JobFolders
from tether.serving.hub import Hub
from tether.serving.keeper import Keeper
from tether.serving.log import log, set_up
from tether.serving.metrics import Metrics
from tether.serving.scaling import JOBS, ByQueue
from tether.serving.settings import Frozen, Models, Settings
from tether.serving.shared import SharedJobStore
from tether.serving.store import JobStore
from tether.serving.worker import Worker

__all__ = ["Replica", "Replicas", "Scale"]

APP = "tether"
"""The name of the application in Ray Serve."""
OBJECTS = 128 * 2**20
"""Bytes of Ray's store of objects on this machine: no job passes through it."""
STARTING = 60.0
"""Seconds that a stop waits for the end of a start."""
LOOK = 1.0
"""Seconds between two looks at how many replicas run."""
UP, DOWN, OVER = 5.0, 60.0, 15.0
"""Seconds of a longer queue before replicas are added, of a shorter one before they go; seconds of its mean."""


class Scale(Frozen):
    """How many replicas there are, and what each has.

    Attributes:
        least, most: replicas.
        jobs: that wait or run, for each replica: with more there are more replicas.
        cpus, gpus: of a replica. It computes in as many threads as it has CPUs.
    """

    least: int = Field(default=1, ge=1)
    most: int = Field(default=1, ge=1)
    jobs: int = Field(default=8, ge=1)
    cpus: int = Field(default=1, ge=1)
    gpus: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> Scale:
        if self.most < self.least:
            raise TetherError(f"--replicas {self.least}-{self.most}: the second number is less than the first")
        return self


class Replica:
    """One process that draws; it holds one `Session`, so that models are loaded once.

    Args:
        settings: of the server.
        scale: how many threads it computes in.

    Raises:
        TetherError: when the base cannot be opened.
    """

    _worker: Worker | None = None

    def __init__(self, settings: Settings, scale: Scale) -> None:
        set_up()
        torch.set_num_threads(scale.cpus)
        assert settings.database is not None
        self._settings = settings
        self._store = SharedJobStore(settings.database, settings.lease)
        folders, hub, catalog = JobFolders(settings.data), Hub(), Catalog(settings.models)
        folders.belong_to(self._store.folder())
        self._keeper = Keeper(self._store, hub, settings.attempts)
        worker = Worker(settings, self._store, folders, hub, catalog, Metrics(self._store.counts))
        worker.start()
        self._keeper.start()
        while not worker.ready:
            if worker.failure:
                worker.stop(0)
                self._keeper.stop()
                self._store.close()
                raise TetherError(f"the base cannot be opened: {worker.failure}")
            time.sleep(0.02)
        self._worker = worker

    def check_health(self) -> None:
        """Called by Ray, which starts another replica for one that raises."""
        if self._worker is None or not self._worker.is_alive() or not self._keeper.is_alive():
            raise RuntimeError("the drawing thread has ended")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Ray; what `ByQueue` decides by."""
        return {JOBS: float(self._store.waiting())}

    def made_with(self) -> tuple[Settings, tuple[int, int] | None]:
        """Its settings, and the size of the base that is opened at the start."""
        return self._settings, None if self._worker is None else self._worker.size

    def __del__(self) -> None:
        """Called by Ray when the replica should go: what it draws may end, or is put back."""
        if self._worker is not None:
            self._worker.stop(self._settings.grace)
            self._keeper.stop()
            self._store.close()
            self._worker = None


class Replicas:
    """The replicas of a server; see `tether.serving.service.Drawing`.

    They run on the cluster at `RAY_ADDRESS`, and stay there when the server stops. Without that variable a cluster of
    processes on this machine is made, and ends with the server.

    Args:
        settings: of the server.
        store: the jobs.
        scale: how many.

    Attributes:
        size: what the base that is opened at the start draws by default; None until that is known.

    Raises:
        TetherError: when no cluster answers at `RAY_ADDRESS`.
    """

    size: tuple[int, int] | None = None

    def __init__(self, settings: Settings, store: JobStore, scale: Scale) -> None:
        assert isinstance(store, SharedJobStore)
        self._settings, self._store, self._scale = settings, store, scale
        self._made = join_cluster(scale.most * scale.cpus, OBJECTS)
        self._failure = ""
        self._looked, self._found = 0.0, 0
        self._starting = Thread(target=self._start, name="tether-replicas", daemon=True)

    def start(self) -> None:
        """Begins to start the replicas."""
        self._starting.start()

    def _start(self) -> None:
        try:
            serve.start(proxy_location="Disabled")
            self._deploy()
            log("replicas", running=self.running)
        except Exception as error:
            self._failure = str(error).strip().splitlines()[-1][:300] or type(error).__name__
            log("not_ready", level=ERROR, error=error)

    def _deploy(self) -> None:
        """Starts the replicas, unless another server has, and asks one what it is.

        Raises:
            TetherError: when there are some with other settings.
        """
        settings = _of_replica(self._settings)
        if APP not in serve.status().applications:
            self._run(settings)
        found, self.size = serve.get_app_handle(APP).made_with.remote().result()
        if found != settings:
            raise TetherError("the replicas on this cluster have other settings: give those, or stop them")

    def _run(self, settings: Settings) -> None:
        scale = self._scale
        deployment = serve.deployment(
            Replica,  # type: ignore[arg-type]
            ray_actor_options={"num_cpus": scale.cpus, "num_gpus": scale.gpus},
            autoscaling_config=AutoscalingConfig(
                min_replicas=scale.least,
                max_replicas=scale.most,
                initial_replicas=scale.least,
                upscale_delay_s=UP,
                downscale_delay_s=DOWN,
                look_back_period_s=OVER,
                policy=AutoscalingPolicy(
                    policy_function=f"{ByQueue.__module__}:{ByQueue.__name__}", policy_kwargs={"jobs": scale.jobs}
                ),
            ),
            graceful_shutdown_wait_loop_s=0.1,
            graceful_shutdown_timeout_s=settings.grace + 10,
            health_check_period_s=2,
        )
        serve.run(deployment.bind(settings, scale), name=APP, route_prefix=None)

    @property
    def running(self) -> int:
        """How many replicas run."""
        now = time.monotonic()
        if now - self._looked > LOOK:
            self._looked = now
            app = serve.status().applications.get(APP)
            deployments = app.deployments.values() if app is not None else ()
            self._found = sum(one.replica_states.get("RUNNING", 0) for one in deployments)  # type: ignore[call-overload]
        return self._found

    def why_not(self) -> str | None:
        """Why jobs are not drawn now; None if they are."""
        if self._failure:
            return f"the replicas cannot be started: {self._failure}"
        if self._starting.is_alive():
            return "the replicas are being started"
        return None if self.running else "no replica runs"

    @property
    def seconds_a_job(self) -> float:
        """About so long until a place in a full queue is free."""
        return (self._store.seconds_a_job() or 5.0) / max(1, self._found)

    def wake(self) -> None:
        """Replicas look into the store by themselves."""

    def stop(self, grace: float) -> None:
        """Ends the cluster if it is this server's: what is drawn may end within `grace` seconds, or is put back."""
        if self._starting.is_alive():
            self._starting.join(grace + STARTING)
        if self._made:
            serve.shutdown()
        leave_cluster()


def _of_replica(settings: Settings) -> Settings:
    """The settings without what concerns HTTP, and with paths that hold in another process."""
    models = {what: tuple(path.absolute() for path in paths) for what, paths in settings.models}
    alone = {"token": None, "host": "127.0.0.1", "port": 0}
    return settings.model_copy(update=alone | {"data": settings.data.absolute(), "models": Models(**models)})
