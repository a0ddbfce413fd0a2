"""The same bytes from one core, two, and the nodes of a Ray cluster."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import psutil
import pytest

from tests.platform.ingest.radiographs import write_dicom
from vetdino.platform.ingest import team
from vetdino.platform.ingest.ranges import Job
from vetdino.platform.ingest.team import _Node, _RayTeam, open_team

ROOT = Path(__file__).parents[3]

PATIENCE = 240
"""Seconds that a Ray may take to start on a machine that is busy with other work."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def cluster() -> Iterator[dict[str, str]]:
    """The environment that leads to a Ray of two nodes on this machine, with a token of its own.

    RAY_FILES is the folder of its sessions; its path is short, for there are sockets in it.
    """
    temp = Path(tempfile.mkdtemp(prefix="r"))
    port = free_port()
    python = Path(sys.executable).parent
    common = ["--block", "--num-cpus", "1", "--num-gpus", "0", "--object-store-memory", "80000000"]
    common += ["--node-ip-address", "127.0.0.1"]
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    ray = [str(python / "ray"), "start", "--disable-usage-stats", *common]
    environment = os.environ | access | {"PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    options = {"cwd": ROOT, "env": environment, "start_new_session": True, "stdout": subprocess.DEVNULL}
    head = [
        *ray,
        "--head",
        "--port",
        str(port),
        "--include-dashboard",
        "false",
        "--temp-dir",
        str(temp / "head"),
    ]
    nodes = [subprocess.Popen(head, **options, stderr=subprocess.STDOUT)]
    address = f"127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + PATIENCE
        while True:  # the second node gives up where the head is not there yet
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < deadline, "Ray did not start"
            time.sleep(0.5)
        nodes.append(subprocess.Popen([*ray, "--address", address], **options, stderr=subprocess.STDOUT))
        reach = access | {"RAY_ADDRESS": address, "RAY_FILES": str(temp)}
        wait = (
            "import ray, time\n"
            "ray.init(log_to_driver=False)\n"
            "while sum(node['Alive'] for node in ray.nodes()) < 2: time.sleep(0.5)\n"
        )
        command = [sys.executable, "-c", wait]
        subprocess.run(command, env=os.environ | reach, check=True, capture_output=True, timeout=PATIENCE)
        yield reach
    finally:
        # Asked to end, Ray takes half a minute.
        started = [psutil.Process(node.pid) for node in nodes]
        processes = [child for process in started for child in process.children(recursive=True)]
        for process in started + processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for node in nodes:
            node.wait()
        shutil.rmtree(temp, ignore_errors=True)


def ingest(source: Path, out: Path, secret: Path, *words: str, **environment: str) -> str:
    """`vetdino ingest` with small shards and ranges, so that there are several of both; what it printed as an error."""
    command = [sys.executable, "-m", "vetdino", "ingest", str(source), str(out), "--secret", str(secret)]
    settings = ["--shards.max-bytes", "6000", "--val", "0.3", "--test", "0.3", "--dicom.search-text", "none"]
    run = subprocess.run(
        [*command, *settings, *words], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stderr


def digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.slow
def test_a_cluster_of_two_nodes_writes_what_one_core_does(cluster, tmp_path):
    archive, secret = tmp_path / "archive", tmp_path / "key"
    secret.write_bytes(bytes(32))
    for number in range(72):
        pixels = 7 if number % 20 == 0 else 100 + number  # some are in several studies
        patient, study = f"p{number // 9}", f"1.2.{number // 3}"
        write_dicom(archive / patient / f"{number}", patient, study, pixels, SeriesDescription=f"{number}")
    ingest(archive, tmp_path / "one", secret, "--workers", "1")
    ingest(archive, tmp_path / "two", secret, "--workers", "2")
    printed = ingest(archive, tmp_path / "ray", secret, **cluster)
    assert "waiting for 2 nodes" in printed
    expected = digests(tmp_path / "one")
    assert len([name for name in expected if name.endswith(".tar")]) > 5
    assert digests(tmp_path / "two") == expected
    assert (tmp_path / "one" / "quarantine.csv").read_text().count("DUPLICATE,the same pixels") == 3
    assert digests(tmp_path / "ray") == expected


class _Nodes(_RayTeam):
    """A team whose only node is lost with its task while another one starts."""

    def __init__(self) -> None:
        self.given: list[object] = []
        self._idle = [self]
        self._busy = {"start": (self, None)}
        self.do = self

    def remote(self, function: object, task: object) -> str:
        self.given.append(task)
        return "work"

    def _wait(self, report, finished, again=None) -> None:
        if "work" in self._busy and len(self.given) == 1:  # the node is lost
            again.append(self._busy.pop("work")[1])
        elif "start" in self._busy:  # the other one is ready
            self._idle.append(self._busy.pop("start")[0])
        else:
            finished.update(task=self._busy.pop("work")[1], result={})


def test_the_task_of_a_lost_node_waits_for_one_that_starts():
    nodes = _Nodes()
    assert list(nodes.run(lambda *arguments: {}, ["only"], lambda read, reused: None)) == [("only", {})]
    assert nodes.given == ["only", "only"]


def test_a_node_that_does_not_see_the_folders_says_which(tmp_path, config, monkeypatch):
    work = tmp_path / "out.tmp-1"
    work.mkdir()
    job = Job(tmp_path / "archive", work, tmp_path / "out", b"", config, (), {})
    assert "is another folder" in _Node(job, Path(config.secret), "mark").ready()
    (work / "mark").touch()
    assert "archive is not there" in _Node(job, Path(config.secret), "mark").ready()
    (tmp_path / "archive").mkdir()
    assert "gone is not there" in _Node(job, tmp_path / "gone", "mark").ready()
    assert _Node(job, Path(config.secret), "mark").ready() == ""
    searching = replace(job, config=replace(config, dicom=replace(config.dicom, search_text="untagged")))
    with monkeypatch.context() as patched:
        patched.setattr(team, "can_search", lambda: False)
        assert "vetdino[ocr]" in _Node(searching, Path(config.secret), "mark").ready()
        assert _Node(job, Path(config.secret), "mark").ready() == ""
    assert _Node(replace(job, root="s3://bucket/archive"), Path(config.secret), "mark").ready() == ""


def test_one_machine_does_its_tasks_in_their_order(tmp_path, config, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    job = Job(tmp_path, tmp_path, tmp_path / "out", b"key", config, (), {})
    stages: list[str] = []
    with open_team(job, Path(config.secret), stages.append) as one:
        answers = list(one.run(lambda job, pool, task, report: {"task": task}, range(3), lambda a, b: None))
    assert answers == [(number, {"task": number}) for number in range(3)]
    assert stages == []
