"""Prometheus metrics of one application, in its own registry."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from model.errors import SkyfixError
from service.runtime.live_localizer import LiveLocalizer

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters and gauges; GET /metrics answers `page`."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "skyfix_requests", "Answers", ["method", "route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "skyfix_request_seconds",
            "Seconds from a request's head to the end of its answer",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.stages = Histogram(
            "skyfix_stage_seconds",
            "Seconds of the stages of locating; encode and search count whole batches",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batches = Histogram(
            "skyfix_batch_panoramas",
            "Panoramas encoded together",
            buckets=_SIZES,
            registry=registry,
        )
        self.problems = Counter(
            "skyfix_problems", "Requests refused or failed, by type", ["type"], registry=registry
        )
        self.ready = Gauge("skyfix_ready", "1 when the last canary was answered", registry=registry)
        self.canary = Gauge(
            "skyfix_canary_timestamp_seconds", "When the last canary ran", registry=registry
        )
        self.jobs = Counter("skyfix_jobs", "Jobs that ended", ["kind", "status"], registry=registry)
        for status in ("succeeded", "failed", "cancelled"):  # from 0: an alert sees the first job
            self.jobs.labels("rebuild", status)
        self.running = Gauge("skyfix_jobs_running", "Jobs running now", registry=registry)

    def page(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)

    def observe_stages(self, timings_ms: Mapping[str, float]) -> None:
        """Count the stages of one fix, in milliseconds."""
        for stage, milliseconds in timings_ms.items():
            self.stages.labels(stage).observe(milliseconds / 1000.0)

    def observe_canary(self, *, answered: bool) -> None:
        """Set readiness by the last canary."""
        self.ready.set(answered)
        self.canary.set(time.time())

    def observe_job(self, kind: str, status: str) -> None:
        """Count a job that has started ("running") or ended (any other status)."""
        self.running.set(status == "running")
        if status != "running":
            self.jobs.labels(kind, status).inc()

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Also report `value()`, as it is when the page is read."""
        Gauge(name, help_text, registry=self.registry).set_function(value)

    def watch_index(self, live: LiveLocalizer) -> None:
        """Also report the live version."""
        self.registry.register(_LiveVersion(live))


class _LiveVersion(Collector):
    """Name, age and tiles of the live version."""

    def __init__(self, live: LiveLocalizer) -> None:
        self._live = live

    def collect(self) -> Iterator[Metric]:
        """Yields no date and no tiles while no version answers."""
        info = GaugeMetricFamily(
            "skyfix_index_live", "1 for the version that answers", labels=["version", "encoder"]
        )
        try:
            manifest = self._live.index.get().manifest
        except SkyfixError:
            info.add_metric(["", ""], 0.0)
            yield info
            return
        info.add_metric([manifest.version, manifest.encoder[:12]], 1.0)
        yield info
        built = datetime.fromisoformat(manifest.built_at).timestamp()
        yield GaugeMetricFamily(
            "skyfix_index_built_timestamp_seconds", "When the live version was built", built
        )
        yield GaugeMetricFamily("skyfix_index_tiles", "Tiles of the live version", manifest.count)
