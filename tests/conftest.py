"""What every test shares: quiet, repeatable surroundings, and which files come first."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

# Set before any library is imported: no telemetry, no progress bars, no look at the network.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray makes its workers, jobs among them, 15 nicer: beside the other process of the tests a job got no core for minutes.
os.environ.setdefault("RAY_worker_niceness", "0")
# Indexes and copies of earlier runs are not used, and those of this run are removed with it.
_cache = tempfile.TemporaryDirectory(prefix="vetdino-tests-")
os.environ.setdefault("VETDINO_CACHE", _cache.name)
# Two processes with two threads each wait for one another on two cores: `make quick` took 176 s instead of 66 s.
if "PYTEST_XDIST_WORKER" in os.environ:
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")


LONGEST = ("tests/pretrain/test_job.py", "tests/test_tutorials.py")
"""Files that start many Ray jobs: begun last, they would keep one process busy while the other has nothing left."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first."""
    items.sort(key=lambda item: item.location[0] not in LONGEST)


# Object storage -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class S3:
    """A server of S3's protocol that runs beside the tests, and one bucket of it.

    address: of the server. proxy: of the one before it, which fails on demand.
    """

    address: str
    proxy: str
    bucket: str = "s3://vetdino-tests"

    def fail(self, status: int, code: str, count: int) -> int:
        """The next `count` requests (-1: all) to the proxy are refused; how many were since the last call."""
        order = Request(f"{self.proxy}/fail", f"{status} {code} {count}".encode(), method="POST")
        with urlopen(order, timeout=30) as answer:
            return int(answer.read())


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3]:
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("s3_server.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        server = S3(*process.stdout.readline().split())
        yield server
        process.stdin.close()


S3_SETTINGS = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture(scope="module")
def s3(s3_server: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """The server, with the environment that leads to it, an empty cache and a bucket."""
    from vetdino.platform.core.storage import filesystem

    with pytest.MonkeyPatch.context() as patch:
        for name, value in S3_SETTINGS.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", s3_server.address)
        patch.setenv("VETDINO_CACHE", str(tmp_path_factory.mktemp("cache")))
        _forget_connections()
        files, path = filesystem(s3_server.bucket)
        if not files.exists(path):
            files.mkdir(path)
        yield s3_server
        _forget_connections()


@pytest.fixture
def failing_s3(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, str, int], int]]:
    """Requests go through the proxy, whose failures are ordered with the function that this is."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.proxy)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    _forget_connections()
    yield s3.fail
    s3.fail(500, "none", 0)
    _forget_connections()


def _forget_connections() -> None:
    import fsspec

    fsspec.get_filesystem_class("s3").clear_instance_cache()
