"""Which cluster, which token, and one line where there is none. A small HTTP server stands for the head of a Ray."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from vetdino.infra.jobs import client
from vetdino.infra.jobs.client import cluster_address, job_client, reported, token_source
from vetdino.platform.core.errors import ClusterError, ConfigError


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch, tmp_path):
    """An environment that names neither a cluster nor a token."""
    for name in (*client.VARIABLES, "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@contextmanager
def answering(status: int) -> Iterator[tuple[str, list[str]]]:
    """The address of a server that answers each request alike, and the values of `Authorization` that it got."""
    seen: list[str] = []

    class Head(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.headers.get("Authorization", ""))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *words):
            pass

    with HTTPServer(("127.0.0.1", 0), Head) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()
        thread.join()


def test_the_setting_wins_over_the_variables_and_they_over_this_machine(monkeypatch):
    assert cluster_address(None) == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert cluster_address(None) == "auto"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://head:8265/")
    assert cluster_address(None) == "http://head:8265"
    assert cluster_address("ray://other:10001") == "ray://other:10001"


def test_the_port_of_the_dashboard_is_not_taken_for_that_of_the_workers():
    assert cluster_address("head:8265") == "http://head:8265"
    assert cluster_address("head:6379") == "head:6379"


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "127.0.0.1:1", "ray://127.0.0.1:1"])
def test_where_nobody_answers_the_address_is_named(address):
    with pytest.raises(ClusterError, match=rf"no Ray answers at {address} \(Connection refused\)"):
        job_client(address)


def test_an_address_of_another_kind_is_refused():
    with pytest.raises(ClusterError, match="k8s://head: give http://HOST:8265"):
        job_client("k8s://head")


def test_a_server_that_is_no_ray_is_refused():
    with (
        answering(404) as (address, _),
        pytest.raises(ClusterError, match="HTTP 404: give the address of a Ray"),
    ):
        job_client(address)


def test_a_password_in_the_address_is_refused_and_not_printed():
    with pytest.raises(ClusterError) as refused:
        job_client("https://me:hush@head:8265")
    assert "hush" not in str(refused.value)


def test_a_missing_token_is_said_with_where_to_put_it():
    with (
        answering(401) as (address, _),
        pytest.raises(ClusterError, match=r"none is here; set RAY_AUTH_TOKEN"),
    ):
        job_client(address)


def test_a_token_is_not_sent_before_it_is_asked_for(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hush")
    with answering(404) as (address, seen), pytest.raises(ClusterError):
        job_client(address)
    assert seen == [""]


def test_the_token_is_found_where_ray_looks_and_never_printed(monkeypatch, tmp_path):
    assert token_source() == ""
    usual = tmp_path / ".ray" / "auth_token"
    usual.parent.mkdir()
    usual.write_text("hush")
    assert token_source() == str(usual)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(usual))
    assert token_source() == f"{usual} (RAY_AUTH_TOKEN_PATH)"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hush")
    assert token_source() == "RAY_AUTH_TOKEN"


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("Request failed with status code 413: too large.", "HTTP 413"),
        ("Request failed with status code 404: Job x does not exist.", "no such job"),
        ("first line\nsecond", r"\(first line\)"),
    ],
)
def test_what_rays_client_raises_is_one_line_without_passwords(text, fact):
    with pytest.raises(ClusterError, match=fact) as refused, reported("http://me:hush@head:8265"):
        raise RuntimeError(text)
    assert "hush" not in str(refused.value)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("vetdino.platform.core.extras.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"vetdino\[train\]"):
        job_client(None)
