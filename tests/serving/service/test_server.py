"""The service in a process of its own: up, stopped, slow and split requests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace

import httpx
import pytest

from tests.serving.conftest import served
from vetdino.platform.core.errors import ConfigError
from vetdino.serving.config import ListenConfig, ServiceConfig
from vetdino.serving.service.api import create_app
from vetdino.serving.service.server import bound_socket, serve


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def started(folder, gallery, *more: str, **environment: str):
    """(process, url) of `vetdino serve`, once it is ready."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "vetdino",
        "serve",
        str(gallery),
        "--backbones",
        str(folder / "backbone0"),
    ]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--decoders", "1", *more],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, process.stderr.read()
            try:
                if httpx.get(f"{url}/health/ready").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield process, url
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_it_serves_until_it_is_stopped(folder, gallery, number, code):
    with started(folder, gallery) as (process, url):
        assert httpx.get(f"{url}/v1/info").json()["backbones"][0]["gallery"]["rows"] == 5
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert process.returncode == code
        assert f"The service is at {url}" in out
        assert "Traceback" not in err
        lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
        requests = [line for line in lines if line.get("route") == "/v1/info"]
        assert [(line["level"], line["verb"], line["status"]) for line in requests] == [
            ("info", "serve", 200)
        ]
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)


@pytest.mark.slow
def test_tokens_of_the_environment_are_needed(folder, gallery):
    with started(folder, gallery, VETDINO_READ_TOKEN="r" * 20) as (_, url):
        assert httpx.get(f"{url}/v1/info").status_code == 401
        assert httpx.get(f"{url}/v1/info", headers={"Authorization": "Bearer " + "r" * 20}).status_code == 200


def test_what_cannot_be_served_is_refused_before_anything_is_loaded(tmp_path):
    config = ServiceConfig(backbones=(tmp_path / "nowhere",))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="cannot be used"):
            serve(config, ListenConfig(port=taken.getsockname()[1]))
    with pytest.raises(ConfigError, match="gallery_shards 3"):
        serve(replace(config, gallery_shards=3), ListenConfig())
    with pytest.raises(ConfigError, match="needs tokens"):
        serve(config, ListenConfig(host="0.0.0.0"))
    with pytest.raises(ConfigError, match="port 99999"):
        bound_socket("127.0.0.1", 99999)


@pytest.fixture(scope="module")
def address(engine):
    """Of the service alone, which gives headers a second to arrive."""
    with served(create_app(engine), header_s=1.0) as url:
        yield ("127.0.0.1", int(url.rpartition(":")[2]))


def raw(address, request: bytes, wait: float = 10) -> bytes:
    """What the server says to these bytes until it closes the connection."""
    answer = b""
    with socket.create_connection(address, timeout=wait) as connection:
        connection.sendall(request)
        try:
            while part := connection.recv(65536):
                answer += part
        except (TimeoutError, ConnectionResetError):
            pass
    return answer


HEAD = (
    b"POST /v1/embed HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/dicom\r\nConnection: close\r\n"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 4\r\nContent-Length: 5\r\n",
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Content-Length: -4\r\n",
        b"Content-Length: 4x\r\n",
        b"Content-Length : 4\r\n",
        b"X: a\r\n folded: b\r\nContent-Length: +4\r\n",
        b"X: \x00\r\n",
        b"X: " + b"y" * 100_000 + b"\r\n",
        b"".join(b"X%d: y\r\n" % n for n in range(20_000)),
    ],
    ids=str,
)
def test_headers_that_two_servers_may_read_differently_are_refused(address, headers):
    answer = raw(address, HEAD + headers + b"\r\nabcd")
    status = answer.partition(b"\r\n")[0]
    assert b" 200 " not in status
    assert b" 5" not in status[:13]
    assert answer == b"" or b" 4" in status


@pytest.mark.slow
def test_a_second_request_smuggled_behind_a_body_is_not_answered(address):
    smuggled = b"GET /v1/info HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    chunked = HEAD + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (
        5 + len(smuggled)
    )
    answer = raw(address, chunked + smuggled)
    assert b'"backbones"' not in answer


@pytest.mark.slow
@pytest.mark.parametrize(
    "first", [b"", b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"], ids=["new", "kept"]
)
def test_headers_that_drip_are_given_up(address, first):
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(first)
        if first:
            assert b"200" in connection.recv(65536)
        began = time.monotonic()
        with suppress(ConnectionError):
            for byte in b"GET /v1/info HTTP/1.1\r\nX: " + b"y" * 100:
                connection.sendall(bytes([byte]))
                time.sleep(0.1)
        assert time.monotonic() - began < 9


@pytest.mark.slow
def test_a_slow_answer_is_not_cut_by_the_limit_of_headers(engine, address, monkeypatch):
    import asyncio

    async def slow():
        await asyncio.sleep(2.5)
        return []

    monkeypatch.setattr(engine, "problems", slow)
    assert httpx.get(f"http://127.0.0.1:{address[1]}/health/ready").status_code == 200
