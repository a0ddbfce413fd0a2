"""Alive, ready, metrics, info: ready is what is ready."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from vetdino.serving.config import Limits


def test_alive_and_ready(http):
    assert http.get("/health/live").json() == {"status": "alive"}
    assert http.get("/health/ready").json() == {"status": "ready"}


def test_info_tells_digests_dimensions_and_every_limit(http, engine):
    info = http.get("/v1/info").json()
    assert set(info["limits"]) == {field.name for field in fields(Limits)}
    assert [one["digest"] for one in info["backbones"]] == [model.card.digest for model in engine.models]
    assert [one["label"] for one in info["backbones"]] == [
        "shipped: pretrained on drawings",
        "just trained by this test",
        "random weights, seed 0",
    ]
    for one in info["backbones"]:
        assert one["gallery"]["vectors"] == one["vectors"]
        assert (one["dimensions"], one["heads"], one["patches"], one["gallery"]["rows"]) == (48, 3, 64, 5)
    assert (info["shards"]["split"], info["shards"]["studies"]) == ("test", 5)


def test_a_backbone_that_computes_something_else_is_not_ready(http, engine, monkeypatch):
    model = engine.models[0]
    whole = model.vectors

    async def turned(views):
        return np.roll(await whole(views), 1, axis=1)

    monkeypatch.setattr(model, "vectors", turned)
    monkeypatch.setattr(engine, "_checked", {})
    answer = http.get("/health/ready")
    assert answer.status_code == 503
    assert "gallery 0" in answer.json()["error"]
    assert "retry-after" in answer.headers


@pytest.mark.parametrize("part", ["decoder", "model"])
def test_without_one_of_its_parts_it_is_not_ready(http, engine, monkeypatch, part):
    async def dead():
        return False

    monkeypatch.setattr(engine.decoder if part == "decoder" else engine.models[1], "alive", dead)
    assert http.get("/health/ready").status_code == 503
    assert http.get("/health/live").status_code == 200


def test_metrics_count_requests_errors_and_batches_without_names(http, files):
    http.post("/v1/embed", files=[("files", ("CANARY7", file)) for file in files])
    http.get("/v1/studies/CANARY7")
    text = http.get("/metrics").text
    assert 'vetdino_requests_total{method="POST",route="/v1/embed",status="200"} 1.0' in text
    assert 'vetdino_errors_total{error_type="NotFound"} 1.0' in text
    assert "vetdino_batch_size_sum 3.0" in text
    assert "vetdino_views_waiting 0.0" in text
    assert "CANARY7" not in text
