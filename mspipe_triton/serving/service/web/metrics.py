"""Metrics of a service and of its HTTP front, in the text form of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.responses import Response

from mspipe_triton.serving.service.web.backend import Backend

PREFIX = "mspipe"
OTHER, PAGE = "other", "page"
_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
# Each metric of a status with its name, field, and help.
_COUNTERS = (
    ("observed_events", "observed", "Events taken in since the run."),
    ("rejected_lines", "rejected", "Lines of a followed source that were no event that fits."),
    ("swaps", "swaps", "Times that new parameters came into use."),
)
_GAUGES = (
    ("events", "events", "Events so far, those of the run included."),
    ("nodes", "nodes", "Nodes that have an event."),
    ("waiting", "waiting", "Work in the queue."),
    ("log_entries", "log_entries", "Entries in the log."),
    ("log_bytes", "log_bytes", "Size of the log."),
    ("snapshot_entry", "snapshot", "Log entries that the last snapshot contains."),
    ("ready", "ready", "1 if the service answers."),
    ("writable", "writable", "1 if the last attempt to write the log succeeded."),
)


class Metrics:
    """Counters of requests, and what the status of a service says.

    Args:
        service: whose status counts. paths: those that count by name; others are "other".
    """

    def __init__(self, service: Backend, paths: frozenset[str]) -> None:
        self._paths, self._registry = paths, CollectorRegistry(auto_describe=False)
        names = ("endpoint", "status")
        self._responses = Counter("responses", "Answers to requests.", names, PREFIX, registry=self._registry)
        self._seconds = Histogram(
            "request_seconds", "Time to answer.", names[:1], PREFIX, registry=self._registry, buckets=_BUCKETS
        )
        self.dropped = Counter(
            "dropped_events", "Late events of requests, left out.", (), PREFIX, registry=self._registry
        )
        self._registry.register(_StatusCollector(service))
        ProcessCollector(namespace=PREFIX, registry=self._registry)

    def note(self, path: str, status: int, start: float) -> None:
        """Count a request that `start` began, in seconds of `perf_counter`."""
        endpoint = (path[1:] or PAGE) if path in self._paths else OTHER
        self._responses.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(perf_counter() - start)

    def answer(self) -> Response:
        """Return all metrics as text."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)


class _StatusCollector(Collector):
    """Metrics of a service's status, read when they are collected."""

    def __init__(self, service: Backend) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        status = self._service.status()
        for name, field, text in _COUNTERS:
            yield CounterMetricFamily(f"{PREFIX}_{name}", text, getattr(status, field))
        for name, field, text in _GAUGES:
            yield GaugeMetricFamily(f"{PREFIX}_{name}", text, getattr(status, field))
