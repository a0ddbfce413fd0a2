"""The client against the service: typed answers, tries again where it is told to, and never the name of a file."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from tests.serving.conftest import served
from vetdino.client import AsyncClient, Client, ServiceError
from vetdino.platform.core.errors import ConfigError
from vetdino.platform.models.loading import load
from vetdino.serving.service.api import create_app

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(engine):
    with served(create_app(engine)) as url:
        yield url


@pytest.fixture
def client(url):
    with Client(url, retries=0) as client:
        yield client


def test_importing_it_imports_neither_torch_nor_a_server():
    code = "import sys, vetdino.client; print([m for m in ('torch', 'fastapi', 'ray', 'faiss') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_answers_are_those_of_the_backbone(client, files, folder, tmp_path):
    backbone = load(folder / "backbone0")
    paths = [tmp_path / f"{n}.dcm" for n in range(3)]
    for path, content in zip(paths, files, strict=True):
        path.write_bytes(content)
    study = client.embed_study(paths)
    np.testing.assert_allclose(study.vectors[0], backbone.embed_study(paths), rtol=0, atol=2e-6)
    assert (study.digest, study.vectors.dtype) == (backbone.card.digest, np.float32)
    assert client.embed_images(files).vectors.shape == (3, 48)
    patches = client.embed_patches(files[:1], backbone=1)
    assert (patches.vectors.shape, patches.vectors.dtype) == ((1, 64, 48), np.float16)
    ours, theirs = backbone.similarity(*files[:2], 27), client.similarity(*files[:2], 27)
    np.testing.assert_allclose(theirs.scores, ours.cosines, rtol=0, atol=1e-5)
    assert [best[0] for best in theirs.best] == [box.patch for box in ours.best]
    assert [best[2] for best in theirs.best] == [box.box for box in ours.best]
    point = client.similarity(*files[:2], (0.5, 0.5), k=1)
    assert point.patch == backbone.similarity(*files[:2], (0.5, 0.5)).patch
    np.testing.assert_allclose(
        client.attention(files[0]), backbone.attention(files[0])[0].numpy(), rtol=0, atol=1e-5
    )


def test_matches_are_typed(client, files, studies):
    vectors = client.embed_images(files[:2]).vectors
    result = client.search(vectors, k=2, absent=["enlarged_heart"])
    assert [len(row) for row in result.matches] == [2, 2]
    match = result.matches[0][0]
    assert match.findings["enlarged_heart"] is False
    assert match.projections
    by_files = client.search(files, k=1, exclude_patient=studies[0].patient)
    assert by_files.matches[0][0].key not in (studies[0].key, studies[1].key)
    near = client.neighbors("test-0", k=3)
    assert near.gallery == result.gallery
    assert {match.study for match in near.matches[0]} == {"test-2", "test-3", "test-4"}
    assert client.search(vectors[:1], k=1, split="train").matches == ((),)


def test_an_error_has_its_type_and_limit(client, files, url):
    with pytest.raises(ServiceError) as refusal:
        client.search(np.ones((1, 48), np.float32), k=5000)
    assert (refusal.value.status, refusal.value.limit) == (422, "k")
    assert len(refusal.value.request_id) == 32
    with pytest.raises(ServiceError, match="admin token") as refusal:
        client.compact()
    assert refusal.value.status == 403
    with pytest.raises(TypeError, match="list"):
        client.embed_study(files[0])


def test_the_same_awaited(url, files, studies):
    async def calls():
        async with AsyncClient(url) as client:
            assert await client.is_ready()
            one, images, patches, info = await asyncio.gather(
                client.embed_study(files),
                client.embed_images(files),
                client.embed_patches(files),
                client.info(),
            )
            assert (await client.neighbors("test-0", k=1)).matches[0]
            assert (await client.search(one.vectors, k=1)).matches[0]
            assert (await client.similarity(*files[:2], 3)).patch == 3
            assert (await client.attention(files[0])).shape == (3, 64)
            with pytest.raises(ServiceError):
                await client.delete_items(["x"])
            with pytest.raises(ServiceError):
                await client.add_items([], "x")
            with pytest.raises(ServiceError):
                await client.compact()
            return one, images, patches, info

    one, images, patches, info = asyncio.run(calls())
    assert (one.vectors.shape, images.vectors.shape, patches.vectors.shape) == ((1, 48), (3, 48), (3, 64, 48))
    assert len(info["backbones"]) == 3


class Script(BaseHTTPRequestHandler):
    """Gives prepared answers (status, headers), then 200; keeps what it was sent."""

    answers: list = []  # noqa: RUF012
    bodies: list = []  # noqa: RUF012
    kind = "Overloaded"

    def do_DELETE(self):
        self._answer()

    def do_POST(self):
        self.bodies.append(self.rfile.read(int(self.headers.get("content-length", 0))))
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        status, headers = self.answers.pop(0) if self.answers else (200, {})
        if status is None:
            self.connection.close()
            return
        self.send_response(status)
        content = json.dumps({"error": "busy", "error_type": self.kind, "request_id": "r"}).encode()
        for name, value in {**headers, "content-length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def script():
    Script.answers, Script.bodies, Script.kind = [], [], "Overloaded"
    server = HTTPServer(("127.0.0.1", 0), Script)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def pauses(monkeypatch):
    pauses = []
    monkeypatch.setattr("vetdino.serving.client.sleep", pauses.append)
    return pauses


def test_it_waits_as_long_as_it_is_told(script, pauses):
    Script.answers += [(503, {"retry-after": "7"}), (429, {"retry-after": "3600"}), (503, {}), (503, {})]
    with Client(script) as client:
        assert client.info()["error"] == "busy"
    assert pauses == [7.0, 30.0, 1.0, 2.0]


def test_it_gives_up_after_its_tries(script, pauses):
    Script.answers += [(503, {})] * 9
    with Client(script, retries=2) as client, pytest.raises(ServiceError) as refusal:
        client.info()
    assert (refusal.value.status, refusal.value.kind) == (503, "Overloaded")
    assert pauses == [0.25, 0.5]


def test_a_lost_connection_is_tried_again_but_not_for_a_change_that_may_have_arrived(script, pauses):
    with Client(script) as client:
        Script.answers += [(None, {})]
        assert client.info()
        Script.answers += [(None, {})]
        with pytest.raises(ServiceError, match="does not answer"):
            client.add_items([{"key": "k", "patient": "p", "vector": [1.0]}], "d")
    assert pauses == [0.25]


CHANGES = [
    lambda client: client.add_items([{"key": "k", "patient": "p", "vector": [1.0]}], "d"),
    lambda client: client.delete_items(["k"]),
    lambda client: client.compact(),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("status", "kind", "is_sent_again"),
    [
        (429, "TooManyRequests", True),
        (503, "Overloaded", True),
        (503, "Busy", True),
        (503, "Timeout", False),
        (503, "Unavailable", False),
        (503, "GalleryDamaged", False),
    ],
)
def test_a_change_is_sent_again_only_where_nothing_was_done(
    script, pauses, change, status, kind, is_sent_again
):
    Script.kind = kind
    Script.answers += [(status, {})]
    with Client(script) as client:
        if is_sent_again:
            assert change(client)
        else:
            with pytest.raises(ServiceError) as refusal:
                change(client)
            assert refusal.value.kind == kind
        assert len(pauses) == is_sent_again
        Script.answers[:] = [(status, {})]
        assert client.info()


def test_options_have_names_and_others_are_refused(client, studies):
    from inspect import signature

    for method in ("search", "neighbors"):
        ours, theirs = (list(signature(getattr(kind, method)).parameters) for kind in (Client, AsyncClient))
        assert ours == theirs
    vectors = np.ones((1, 48), np.float32)
    with pytest.raises(TypeError, match="exclude_patients"):
        client.search(vectors, exclude_patients=["x"])
    with pytest.raises(TypeError, match="present: give a list"):
        client.search(vectors, present="lung_mass")
    patients = [study.patient for study in studies[:3]]
    result = client.search(vectors, exclude_patient=patients, digest=client.info()["backbones"][0]["vectors"])
    assert {match.key for match in result.matches[0]} == {study.key for study in studies[3:]}
    (shown,) = client.neighbors("test-0", only_shown=True, split="test").matches
    assert {match.study for match in shown} == {"test-2", "test-3", "test-4"}


def test_nobody_there_is_said_in_one_sentence(script, pauses):
    with Client("http://127.0.0.1:1", retries=1) as client:
        assert not client.is_ready()
        with pytest.raises(ServiceError, match="is `vetdino serve` running") as refusal:
            client.info()
    assert refusal.value.status == 0


def test_names_of_files_are_not_sent(script, tmp_path, pauses):
    path = tmp_path / "CANARY7_Rex.dcm"
    path.write_bytes(b"content")
    Script.answers += [(422, {})]
    with Client(script) as client, pytest.raises(ServiceError):
        client.embed_study([path])
    assert b"content" in Script.bodies[0]
    assert b"CANARY7" not in Script.bodies[0]


def test_without_httpx_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("vetdino.platform.core.extras.has_extra", lambda library: False)
    for kind in (Client, AsyncClient):
        with pytest.raises(ConfigError, match=r"vetdino\[serve\]"):
            kind()
