"""What Prometheus reads at /metrics. Every app has a registry of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

__all__ = ["Metrics"]

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180, 600)
STEP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
HTTP_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class _Jobs(Collector):
    """Jobs by state, counted when they are read."""

    def __init__(self, counts: Callable[[], Mapping[str, int]]) -> None:
        self.counts = counts

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily("tether_jobs", "Jobs that are kept, by state.", labels=["state"])
        for state, number in self.counts().items():
            family.add_metric([state], number)
        yield family


class Metrics:
    """The measures of a server.

    Args:
        counts: jobs by state.
    """

    def __init__(self, counts: Callable[[], Mapping[str, int]]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Jobs(counts))
        ProcessCollector(registry=self.registry)  # memory, CPU time, open files
        registry = self.registry
        self.ended = Counter("tether_jobs_ended", "Jobs that ended, by state.", ["state"], registry=registry)
        self.refused = Counter("tether_refused", "Requests that were refused, by code.", ["code"], registry=registry)
        self.images = Counter("tether_images", "Images that were drawn.", registry=registry)
        self.steps = Counter("tether_steps", "Denoising steps, of a batch each.", registry=registry)
        self.step_seconds = Histogram(
            "tether_step_seconds", "Time of a denoising step.", buckets=STEP_SECONDS, registry=registry
        )
        self.job_seconds = Histogram(
            "tether_job_seconds", "Time of a job from its start to its end.", buckets=SECONDS, registry=registry
        )
        self.wait_seconds = Histogram(
            "tether_wait_seconds", "Time of a job in the queue.", buckets=SECONDS, registry=registry
        )
        self.batch_size = Histogram(
            "tether_batch_jobs", "Jobs that were drawn as one batch.", buckets=(1, 2, 4, 8, 16, 32), registry=registry
        )
        self.http_seconds = Histogram(
            "tether_http_seconds",
            "Time until an answer began, by route and status.",
            ["method", "route", "status"],
            buckets=HTTP_SECONDS,
            registry=registry,
        )
        self.listeners = Gauge("tether_listeners", "Open streams of events.", registry=registry)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
