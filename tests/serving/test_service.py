"""The whole service under attack: each is refused, no identifier is found anywhere, no request gives 500."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import zlib
from io import BytesIO
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.serving.conftest import CANARY, dicom_file, picture
from tests.serving.engine.test_decoding import deflated_bomb
from vetdino.serving.config import Limits, ServiceConfig
from vetdino.serving.engine.opening import open_engine
from vetdino.serving.service.api import create_app
from vetdino.serving.service.auth import AccessTokens

ADMIN, READ = "a" * 20, "r" * 20

LIMITS = Limits(body_mib=8, decode_gib=0.5, decode_s=20, megapixels=4, files=4, upload_minutes=10)


@pytest.fixture(scope="module")
def home(folder, gallery, tmp_path_factory) -> Path:
    """A folder with the gallery that is served, and the temporary files of the service."""
    home = tmp_path_factory.mktemp("home")
    copytree(gallery, home / "gallery")
    (home / "tmp").mkdir()
    return home


@pytest.fixture(scope="module")
def engine(folder, home):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(home / "tmp"))
        patch.setenv("TMPDIR", str(home / "tmp"))
        engine = open_engine(
            ServiceConfig(
                backbones=(folder / "backbone0",),
                galleries=(home / "gallery",),
                shards=folder / "shards",
                decoders=1,
                limits=LIMITS,
            )
        )
        yield engine
        engine.close()


@pytest.fixture
def http(engine):
    with TestClient(create_app(engine), base_url="http://127.0.0.1") as client:
        yield client


def embed(http, data: bytes, kind: str = "application/dicom"):
    return http.post("/v1/embed", content=data, headers={"Content-Type": kind})


@pytest.mark.slow
def test_bombs_cost_an_error_and_the_service_goes_on(http):
    lying = dicom_file(np.zeros((8, 8), np.uint8), Rows=60_000, Columns=60_000)
    flat = BytesIO()
    Image.new("1", (14_000, 14_000)).save(flat, "PNG")
    bombs = [
        (deflated_bomb(1100), "application/dicom", 413, "decode_gib"),
        (lying, "application/dicom", 422, None),
        (flat.getvalue(), "image/png", 413, "megapixels"),
        (zlib.compress(bytes(1 << 24)), "application/dicom", 415, None),
        (b"PK\x03\x04" + bytes(100), "image/png", 415, None),
        (bytes((8 << 20) + 1), "application/dicom", 413, "body_mib"),
    ]
    for data, kind, status, limit in bombs:
        answer = embed(http, data, kind)
        assert (answer.status_code, answer.json().get("limit")) == (status, limit), answer.text
        assert embed(http, dicom_file(picture(60, 50, 0))).status_code == 200


@pytest.mark.slow
def test_canaries_are_found_nowhere(engine, home, files, caplog, capfd):
    """Text tags, file names, form fields, headers and query strings of every kind of request, good and bad."""
    texts = []
    name = f"{CANARY}^Rex_1777.dcm"
    with caplog.at_level(logging.DEBUG), TestClient(create_app(engine), base_url="http://127.0.0.1") as http:
        http.headers.update({"User-Agent": CANARY, "Referer": f"http://127.0.0.1/{CANARY}"})
        bad = dicom_file(np.full((40, 40), 3, np.uint8), "VD")
        cut = files[0][:-4000]
        broken = files[0][:700] + b"\xff" * 200 + files[0][700:]
        shell = files[0].replace(b"\x08\x00\x60\x00CS\x02\x00DX", b"\x08\x00\x60\x00CS\x02\x00%b" % b"ZZ")
        for data in (*files, bad, cut, broken, shell):
            for path in ("/v1/embed", "/v1/embed?level=image", "/v1/search", "/v1/uploads", "/v1/attention"):
                answer = http.post(path, files=[(CANARY, (name, data, "application/dicom"))])
                assert answer.status_code in (200, 422), answer.text
                texts += [answer.text, str(answer.headers)]
                texts.append(http.get(f"/v1/studies/{answer.json().get('study', 'x-1')}").text)
        for path in (f"/v1/search?exclude_patient={CANARY}", f"/v1/search?present={CANARY}&k=3"):
            texts.append(http.post(path, json={"vectors": [[1.0] * 48]}).text.replace(CANARY, "", 1))
        http.get(f"/v1/{CANARY}")
        http.post("/v1/index/items", json={"digest": CANARY, "items": [{"key": CANARY}]})
        texts.append(http.get("/metrics").text)
        texts.append(http.get("/v1/info").text)
        texts.append(http.get("/openapi.json").text)
    leaks = (CANARY, "17770707", "2.25.7770707")
    assert not [text for text in texts if any(leak in text for leak in leaks)]
    records = [record.getMessage() for record in caplog.records if not record.name.startswith("httpx")]
    assert len(records) > 50
    assert not any(CANARY in record for record in records)
    assert CANARY not in "".join(capfd.readouterr())
    for path in home.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path
    for database in home.rglob("*.sqlite"):
        with sqlite3.connect(database) as connection:
            assert CANARY not in "\n".join(connection.iterdump())
    assert list((home / "tmp").glob("**/*.dcm")) == []
    for upload in engine.uploads._uploads.values():
        assert all(CANARY.encode() not in view.encoded and not view.facts for view in upload.study.views)


def test_no_address_is_fetched_and_no_file_of_the_server_is_read(http, tmp_path):
    secret = tmp_path / "secret.png"
    Image.fromarray(picture(60, 50, 0)).save(secret)
    for body in (
        {"url": "http://127.0.0.1:1/x.dcm"},
        {"path": str(secret)},
        {"files": [str(secret)]},
        {"data": [{"path": str(secret)}]},
    ):
        assert http.post("/v1/embed", json=body).status_code == 415
        assert http.post("/v1/attention", json=body).status_code == 422
        assert http.post("/v1/search", json=body).status_code == 422
    assert http.post("/v1/attention", json={"view": f"{secret}/0"}).status_code == 404
    for path in (
        f"/v1/studies/{secret}",
        "/v1/studies/%2e%2e%2fgallery",
        "/../../etc/passwd",
        f"/file={secret}",
    ):
        assert http.get(path).status_code == 404


def test_a_token_is_not_to_be_guessed(engine):
    tokens = AccessTokens({READ: "read", ADMIN: "admin"})
    with TestClient(create_app(engine, tokens), base_url="http://127.0.0.1") as http:
        guesses = [
            "",
            "a",
            READ[:-1],
            f"{READ} ",
            f"{READ}\t{READ}",
            "Bearer",
            hashlib.sha256(READ.encode()).hexdigest(),
        ]
        for path in ("/v1/info", "/metrics", "/openapi.json", "/v1/studies/test-0/0.jpg"):
            statuses = {http.get(path, headers={"Authorization": f"Bearer {g}"}).status_code for g in guesses}
            assert statuses <= {200, 401}
            assert http.get(path).status_code == 401
        assert http.get("/health/live").status_code == 200
        wrong = [g for g in guesses if g.strip() != READ]
        for guess in wrong:
            answer = http.delete("/v1/index/items?key=x", headers={"Authorization": f"Bearer {guess}"})
            assert answer.status_code == 401
        assert http.post("/v1/index/compact", headers={"Authorization": f"Bearer {READ}"}).status_code == 403


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_request_that_its_openapi_allows_or_forbids_gives_500(engine):
    """Fuzzed by schemathesis; VETDINO_FUZZ sets the number of requests of each operation."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis.generation import GenerationMode

    app = create_app(engine, AccessTokens({ADMIN: "admin"}))
    schema = schemathesis.openapi.from_asgi(
        "/openapi.json", app, headers={"Authorization": f"Bearer {ADMIN}", "Host": "127.0.0.1"}
    )
    schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
    count, statuses = int(os.environ.get("VETDINO_FUZZ", "12")), {}
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @settings(
                max_examples=count,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def fuzz(case):
                headers = {"Authorization": f"Bearer {ADMIN}", "Host": "127.0.0.1"}
                response = case.call(headers=headers)
                statuses.setdefault(case.path, set()).add(response.status_code)
                assert response.status_code < 500 or response.status_code == 503, response.text
                if response.status_code >= 400:
                    body = json.loads(response.content)
                    assert {"error", "error_type", "request_id"} <= set(body)

            try:
                fuzz()
            except Unsatisfiable:  # nothing can be wrong with a request that takes nothing
                assert mode is GenerationMode.NEGATIVE
    assert len(statuses) >= 15
    assert 200 in statuses["/v1/info"]
