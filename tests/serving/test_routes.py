"""The routes over a real socket: errors in one sentence, no patient, no way to a file, reads only."""

from __future__ import annotations

import cv2
import httpx
import numpy as np
import pytest

from vetdino.platform.core.errors import ConfigError
from vetdino.serving.routes import api_routes

pytestmark = [
    pytest.mark.slow,
    # gradio and starlette warn about each other's versions while they are imported
    pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:starlette"),
]


@pytest.mark.parametrize(
    ("path", "status", "fact"),
    [
        ("/v1/studies/test-99", 404, "There is no study test-99 here"),
        ("/v1/studies/etc-passwd", 404, "names no study"),
        ("/v1/studies/test-0/9.jpg", 404, "there is no view 9"),
        ("/v1/studies/test-0/x.jpg", 422, "view: "),
        ("/v1/studies/test-0/0/attention/7.jpg", 404, "There is no head 7"),
        ("/v1/similarity?a=test-0/0&b=test-0/1&backbone=8", 404, "There is no backbone 8"),
        ("/v1/similarity?a=test-0/0&b=test-0", 404, "names no view"),
        ("/v1/similarity?a=test-0/0", 422, "b: "),
    ],
)
def test_an_error_is_one_sentence(address, path, status, fact):
    response = httpx.get(address + path)
    assert response.status_code == status
    assert set(response.json()) == {"error", "error_type"}
    assert fact in response.json()["error"]


def test_no_answer_holds_a_patient_or_a_whole_key(address, studies):
    paths = ["/", "/config", "/v1/info"]
    for number in range(len(studies)):
        paths += [f"/v1/studies/test-{number}", f"/v1/studies/test-{number}/neighbours"]
    text = "".join(httpx.get(address + path, follow_redirects=True).text for path in paths)
    assert "0canaryk" in text  # the first eight digits are shown
    assert not any(study.patient in text for study in studies)
    assert not any(study.key in text for study in studies)


def test_no_route_leads_to_a_file_of_this_machine(address, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"\x89PNG canary-secret")
    for route in ("file=", "file/", "stream/"):
        response = httpx.get(f"{address}/gradio_api/{route}{secret}")
        assert response.status_code >= 400
        assert "canary-secret" not in response.text
    call = {"data": [{"path": str(secret)}], "fn_index": 0, "session_hash": "x"}
    for path in ("/gradio_api/run/predict", "/gradio_api/call/predict", "/gradio_api/queue/join"):
        assert httpx.post(address + path, json=call).status_code == 405
    assert httpx.post(f"{address}/gradio_api/upload", files={"files": b"x"}).status_code == 405


def test_a_foreign_host_name_is_refused(address):
    assert httpx.get(f"{address}/v1/info", headers={"Host": "evil.example"}).status_code == 400


@pytest.mark.parametrize(("query", "shape"), [("?side=60", (60, 40)), ("", (240, 160))])
def test_pictures_are_no_larger_than_asked_for(address, query, shape):
    encoded = httpx.get(f"{address}/v1/studies/test-0/0.jpg{query}").content
    assert cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED).shape == shape


def test_without_fastapi_the_extra_is_named(state, monkeypatch):
    monkeypatch.setattr("vetdino.platform.core.extras.has_extra", lambda library: False)
    with pytest.raises(ConfigError, match=r"vetdino\[serve\]"):
        api_routes(state)
