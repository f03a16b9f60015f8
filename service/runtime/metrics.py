"""Prometheus metrics of one application, in a registry of its own."""

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
    """What is counted; `page` is what GET /metrics answers."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        self.requests = Counter(
            "skyfix_requests", "Answers", ["method", "route", "status"], registry=own
        )
        self.seconds = Histogram(
            "skyfix_request_seconds",
            "From the request's head to the end of its answer",
            ["route"],
            buckets=_SECONDS,
            registry=own,
        )
        self.stages = Histogram(
            "skyfix_stage_seconds",
            "Stages of locating; encode and search are of whole batches",
            ["stage"],
            buckets=_SECONDS,
            registry=own,
        )
        self.batches = Histogram(
            "skyfix_batch_panoramas", "Panoramas encoded together", buckets=_SIZES, registry=own
        )
        self.problems = Counter(
            "skyfix_problems", "Requests refused or failed, by type", ["type"], registry=own
        )
        self.ready = Gauge("skyfix_ready", "1 when the last canary was answered", registry=own)
        self.canary = Gauge(
            "skyfix_canary_timestamp_seconds", "When the last canary ran", registry=own
        )
        self.jobs = Counter("skyfix_jobs", "Jobs that ended", ["kind", "status"], registry=own)
        for status in ("succeeded", "failed", "cancelled"):
            self.jobs.labels("rebuild", status)  # from 0 on: an alert sees the first one too
        self.running = Gauge("skyfix_jobs_running", "Jobs running now", registry=own)

    def page(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)

    def observe_stages(self, timings_ms: Mapping[str, float]) -> None:
        """Milliseconds by stage of one fix."""
        for stage, milliseconds in timings_ms.items():
            self.stages.labels(stage).observe(milliseconds / 1000.0)

    def observe_canary(self, *, answered: bool) -> None:
        """The canary's last state."""
        self.ready.set(answered)
        self.canary.set(time.time())

    def observe_job(self, kind: str, status: str) -> None:
        """A job has started ("running") or ended (anything else)."""
        self.running.set(status == "running")
        if status != "running":
            self.jobs.labels(kind, status).inc()

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Also report `value()` as it is whenever the page is asked for."""
        Gauge(name, help_text, registry=self.registry).set_function(value)

    def watch_index(self, live: LiveLocalizer) -> None:
        """Also report the live version and its weights."""
        self.registry.register(_LiveVersion(live))


class _LiveVersion(Collector):
    """The version that answers: its name, when it was built, how many tiles it has; whether it and
    its weights will also answer after a restart."""

    def __init__(self, live: LiveLocalizer) -> None:
        self._live = live

    def collect(self) -> Iterator[Metric]:
        """No date and no tiles while no version is usable."""
        yield GaugeMetricFamily(
            "skyfix_index_behind",
            "1 while what CURRENT names is not used and an older version answers",
            float(self._live.trouble() is not None),
        )
        yield GaugeMetricFamily(
            "skyfix_weights_lost",
            "1 while the weights that answer are no longer in their file",
            float(self._live.weights_trouble() is not None),
        )
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
            "skyfix_index_built_timestamp_seconds", "Of the live version", built
        )
        yield GaugeMetricFamily("skyfix_index_tiles", "Of the live version", manifest.count)
