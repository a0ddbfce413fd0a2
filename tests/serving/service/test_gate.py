"""What every request passes: ids, tokens, limits, the log."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from vetdino.serving.config import Limits
from vetdino.serving.service.auth import AccessTokens
from vetdino.serving.service.gate import Gate
from vetdino.serving.service.metrics import Metrics

READ, ADMIN = "r" * 20, "a" * 20
LIMITS = Limits(body_mib=1, inflight_mib=1, body_s=0.5, concurrency=2)


class NothingServed:
    models = ()


@pytest.fixture
def gated():
    """(tokens, local) -> a client of an app that counts bytes, behind the gate."""
    from starlette.responses import PlainTextResponse

    clients = []

    def make(tokens=None, local=True, raise_server_exceptions=True):
        app = FastAPI()

        async def count(request):
            return PlainTextResponse(str(len(await request.body())))

        async def fault(request):
            raise ZeroDivisionError("CANARY7 in a message")

        for path in ("/v1/count", "/v1/index/items", "/page"):
            app.router.add_route(path, count, methods=["GET", "POST", "DELETE"])
        app.router.add_route("/v1/fault", fault, methods=["GET"])
        metrics = Metrics(NothingServed())
        app.add_middleware(
            Gate, tokens=AccessTokens(tokens or {}), limits=LIMITS, metrics=metrics, local=local
        )
        client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=raise_server_exceptions)
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("abc-1.2_3", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("Müller", False),
        ("a b", False),
        ('"}\x1b[31m', False),
        ("", False),
    ],
)
def test_a_request_id_is_kept_where_it_is_plain_and_made_where_not(gated, given, kept):
    answer = gated().get("/v1/count", headers={"X-Request-ID": given.encode()})
    assert (answer.headers["x-request-id"] == given) == kept
    assert len(answer.headers["x-request-id"]) in (len(given), 32)


def test_tokens_open_what_they_are_for(gated):
    client = gated({READ: "read", ADMIN: "admin"})
    assert client.get("/v1/count").status_code == 401
    assert client.get("/v1/count").headers["www-authenticate"] == "Bearer"
    assert client.get("/v1/count", headers=bearer(READ)).status_code == 200
    refused = client.post("/v1/index/items", headers=bearer(READ))
    assert (refused.status_code, refused.json()["error_type"]) == (403, "Forbidden")
    assert client.post("/v1/index/items", headers=bearer(ADMIN)).status_code == 200
    assert client.get("/health/live").status_code == 404  # let in, though this app has no such route


def test_without_tokens_galleries_are_never_changed(gated):
    for method in ("POST", "DELETE"):
        answer = gated().request(method, "/v1/index/items")
        assert answer.status_code == 403
        assert "no admin token" in answer.json()["error"]


def test_foreign_names_origins_and_methods_are_refused(gated):
    client = gated()
    assert client.get("/v1/count", headers={"Host": "evil.example"}).status_code == 400
    assert client.post("/v1/count", headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.post("/v1/count", headers={"Origin": "null"}).status_code == 403
    assert client.post("/v1/count", headers={"Origin": "http://127.0.0.1"}).status_code == 200
    assert client.post("/page").status_code == 405
    assert client.request("PUT", "/v1/count").status_code == 405
    assert client.request("OPTIONS", "/v1/count").status_code == 405
    assert "access-control-allow-origin" not in client.get("/v1/count").headers
    assert gated(local=False).get("/v1/count", headers={"Host": "vet.example"}).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, identity"])
def test_a_compressed_body_is_refused(gated, encoding):
    answer = gated().post("/v1/count", content=b"x", headers={"Content-Encoding": encoding})
    assert (answer.status_code, answer.json()["error_type"]) == (415, "UnsupportedEncoding")


def chunks(count: int):
    for _ in range(count):
        yield bytes(1 << 18)


@pytest.mark.parametrize("content", [bytes((1 << 20) + 1), chunks(5)], ids=["announced", "streamed"])
def test_a_body_over_the_limit_is_refused_and_the_limit_named(gated, content):
    answer = gated().post("/v1/count", content=content)
    assert answer.status_code == 413
    assert answer.json()["limit"] == "body_mib"


def test_a_body_up_to_the_limit_is_taken(gated):
    assert gated().post("/v1/count", content=chunks(4)).text == str(1 << 20)


async def exchange(app, parts, pause: float = 0.0, path: str = "/v1/count"):
    """The answer to a request whose body comes in parts, with pauses."""
    sent = []
    left = list(parts)

    async def receive():
        await asyncio.sleep(pause)
        body = left.pop(0) if left else b""
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(b"host", b"127.0.0.1")],
    }
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(part.get("body", b"") for part in sent[1:])


def test_a_body_that_drips_is_given_up(gated):
    status, body = asyncio.run(exchange(gated().app, [b"x"] * 50, pause=0.2))
    assert status == 408
    assert json.loads(body)["limit"] == "body_s"


def test_more_requests_at_a_time_than_a_caller_may_are_429_and_later_ones_are_answered(gated):
    app = gated().app

    async def many():
        slow = [exchange(app, [b"x"] * 2, pause=0.1) for _ in range(5)]
        first = await asyncio.gather(*slow)
        return [status for status, _ in first], (await exchange(app, [b"x"]))[0]

    statuses, later = asyncio.run(many())
    assert sorted(statuses) == [200, 200, 429, 429, 429]
    assert later == 200


def test_all_bodies_together_are_limited_and_later_ones_are_taken(gated):
    app = gated().app

    async def many():
        part = bytes(900_000)
        two = [exchange(app, [part, b"", b""], pause=0.1) for _ in range(2)]
        together = await asyncio.gather(*two)
        return [status for status, _ in together], (await exchange(app, [part]))[0]

    statuses, later = asyncio.run(many())
    assert sorted(statuses) == [200, 503]
    assert later == 200


def test_a_fault_of_ours_is_500_and_logged_by_its_place_alone(gated, caplog):
    with caplog.at_level(logging.INFO, "vetdino.service"):
        answer = gated(raise_server_exceptions=False).get("/v1/fault")
    assert (answer.status_code, answer.json()["error_type"]) == (500, "Fault")
    assert "ZeroDivisionError" in caplog.text
    assert "test_gate.py:" in caplog.text
    assert "CANARY7" not in caplog.text + answer.text


def test_a_request_leaves_one_line_without_what_the_caller_wrote(gated, caplog):
    with caplog.at_level(logging.INFO, "vetdino.service"):
        gated().post("/v1/count?patient=CANARY7", content=b"CANARY7", headers={"User-Agent": "CANARY7"})
        gated().get("/CANARY7")
    lines = [json.loads(record.message) for record in caplog.records if record.name == "vetdino.service"]
    assert [line["status"] for line in lines] == [200, 404]
    assert lines[0]["bytes_in"] == 7
    assert not any("CANARY7" in json.dumps(line) for line in lines)


def test_a_client_that_leaves_is_no_fault_of_ours(gated, caplog, capfd):
    gone = [{"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}]
    app, sent = gated().app, []

    async def receive():
        return gone.pop(0)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST"}
    scope |= {"path": "/v1/count", "raw_path": b"/v1/count", "query_string": b"", "root_path": ""}
    scope |= {"scheme": "http", "headers": [(b"host", b"127.0.0.1")]}
    with caplog.at_level(logging.INFO, "vetdino.service"):
        asyncio.run(app(scope, receive, send))
    assert sent == []
    (line,) = [json.loads(record.message) for record in caplog.records if record.name == "vetdino.service"]
    assert (line["status"], line["error_type"]) == (499, "ClientDisconnect")
    assert "Traceback" not in caplog.text + "".join(capfd.readouterr())


def test_every_answer_forbids_other_sites(gated):
    headers = gated().get("/v1/count").headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
