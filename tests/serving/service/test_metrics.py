"""Metrics for Prometheus: a registry for each service, routes by pattern."""

from __future__ import annotations

from types import SimpleNamespace

from prometheus_client.parser import text_string_to_metric_families

from vetdino.serving.service.metrics import Metrics


def values(metrics: Metrics) -> dict[str, float]:
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        " ".join([sample.name, *map(str, sample.labels.values())]): sample.value
        for family in families
        for sample in family.samples
    }


def test_requests_waiting_and_batches_are_counted():
    model = SimpleNamespace(waiting=3)
    engine = SimpleNamespace(models=[model], decoder=SimpleNamespace(waiting=2), uploads=[1])
    other, metrics = Metrics(engine), Metrics(engine)
    metrics.answered("/v1/embed", "POST", 200, 0.2, "")
    metrics.answered("/v1/embed", "POST", 503, 0.001, "Overloaded")
    metrics.batch(7, 0.1)
    found = values(metrics)
    assert found["vetdino_requests_total POST /v1/embed 503"] == 1
    assert found["vetdino_errors_total Overloaded"] == 1
    assert found["vetdino_request_seconds_count /v1/embed"] == 2
    assert found["vetdino_batch_size_sum"] == 7
    assert (found["vetdino_views_waiting"], found["vetdino_files_waiting"], found["vetdino_uploads"]) == (
        3,
        2,
        1,
    )
    assert "vetdino_errors_total Overloaded" not in values(other)
    model.on_batch(1, 0.1)
    assert values(metrics)["vetdino_batch_size_sum"] == 8
