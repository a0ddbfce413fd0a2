"""What Prometheus reads: requests, their seconds, what waits, sizes of batches, errors by type; never a name."""

from __future__ import annotations

from typing import Any

from ..engine.engine import ServiceEngine

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of one service, in a registry of its own."""

    def __init__(self, engine: ServiceEngine) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = registry = CollectorRegistry()
        labels = ["route", "method", "status"]
        self.requests = Counter("vetdino_requests", "Requests answered.", labels, registry=registry)
        self.errors = Counter(
            "vetdino_errors", "Requests refused, by error_type.", ["error_type"], registry=registry
        )
        self.seconds = Histogram(
            "vetdino_request_seconds",
            "Seconds a request took.",
            ["route"],
            registry=registry,
            buckets=SECONDS,
        )
        self.running = Gauge("vetdino_requests_running", "Requests being answered.", registry=registry)
        self.batch_size = Histogram(
            "vetdino_batch_size", "Views of one pass.", registry=registry, buckets=SIZES
        )
        self.batch_seconds = Histogram(
            "vetdino_batch_seconds", "Seconds of one pass.", registry=registry, buckets=SECONDS
        )
        waiting: dict[str, Any] = {
            "vetdino_views_waiting": (
                "Views that wait for a backbone.",
                lambda: sum(getattr(model, "waiting", 0) for model in engine.models),
            ),
            "vetdino_files_waiting": (
                "Files being decoded, or waiting for it.",
                lambda: engine.decoder.waiting,
            ),
            "vetdino_uploads": ("Uploaded studies that are kept.", lambda: len(engine.uploads)),
        }
        for name, (meaning, count) in waiting.items():
            Gauge(name, meaning, registry=registry).set_function(count)
        models: list[Any] = engine.models
        for model in models:  # one in a process of its own sends its passes with its answers
            model.on_batch = self.batch

    def batch(self, size: int, seconds: float) -> None:
        """Counts one pass through a backbone."""
        self.batch_size.observe(size)
        self.batch_seconds.observe(seconds)

    def answered(self, route: str, method: str, status: int, seconds: float, error_type: str) -> None:
        """Counts one request. route: its pattern, never its path."""
        self.requests.labels(route, method, str(status)).inc()
        self.seconds.labels(route).observe(seconds)
        if error_type:
            self.errors.labels(error_type).inc()

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)
