"""The app: errors of the framework are ours, too, and its documentation is whole and of this machine."""

from __future__ import annotations

import pytest

from vetdino.platform.core.errors import ConfigError
from vetdino.serving.service import api
from vetdino.serving.service.api import create_app


def test_every_route_is_documented_with_its_errors_and_bodies(http):
    document = http.get("/openapi.json").json()
    paths = document["paths"]
    for path in (
        "/v1/embed",
        "/v1/search",
        "/v1/index/items",
        "/v1/uploads",
        "/v1/similarity",
        "/v1/attention",
    ):
        operation = paths[path]["post"]
        assert operation["requestBody"]["content"], path
        assert {"400", "401", "403", "409", "413", "415", "422", "429", "503"} <= set(operation["responses"])
        assert operation["description"]
    assert "multipart/form-data" in paths["/v1/embed"]["post"]["requestBody"]["content"]
    assert "application/x-npy" in paths["/v1/search"]["post"]["requestBody"]["content"]
    assert "example" in document["components"]["schemas"]["ErrorAnswer"]
    example = paths["/v1/search"]["post"]["requestBody"]["content"]["application/json"]["schema"]["example"]
    assert example["vectors"]


def test_no_page_of_the_framework_loads_from_elsewhere(http):
    for path in ("/docs", "/redoc"):
        answer = http.get(path)
        assert answer.status_code == 404
        assert set(answer.json()) == {"error", "error_type", "request_id"}


def test_a_wrong_method_is_an_error_of_ours(http):
    answer = http.get("/v1/embed")
    assert (answer.status_code, answer.json()["error_type"]) == (405, "MethodNotAllowed")


def test_expired_uploads_go_while_nobody_asks(engine, http, files, monkeypatch):
    import time

    from fastapi.testclient import TestClient

    monkeypatch.setattr(api, "SWEEP", 0.1)
    with TestClient(create_app(engine), base_url="http://127.0.0.1") as client:
        client.post("/v1/uploads", files=[("files", ("x", files[0]))])
        kept = len(engine.uploads)
        assert kept
        monkeypatch.setattr(engine.uploads, "_clock", lambda: time.monotonic() + engine.uploads.seconds)
        deadline = time.monotonic() + 30
        while len(engine.uploads) == kept and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(engine.uploads) < kept


def test_without_fastapi_the_extra_is_named(engine, monkeypatch):
    monkeypatch.setattr("vetdino.platform.core.extras.has_extra", lambda library: False)
    with pytest.raises(ConfigError, match=r"vetdino\[serve\]"):
        create_app(engine)
