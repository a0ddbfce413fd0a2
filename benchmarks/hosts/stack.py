"""What runs on the hosts: Ray with a token, MLflow's server on PostgreSQL, a store with S3's protocol; and jobs on it.

Host 0 has the head, which computes nothing (as in `infra/kuberay`), and the servers; hosts 1 and 2 have one core each.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from .network import HOSTS, Host, HostsError

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
HEAD = HOSTS[0]
BUCKET = "s3://hosts"

PATIENCE = 900.0
"""Seconds that anything may take on a machine that is busy with other work."""

HEALTH = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "4000",
    "RAY_health_check_failure_threshold": "3",
}
"""Ray takes a host for lost after some 15 s without an answer; by default after more than half a minute."""


MODEST = ("nice", "-n", "5", "choom", "-n", "500", "--")
"""Other work on this machine has its cores first; where memory ends, the kernel ends the hosts' processes first."""

MEMORY_GIB = 6.0
"""What all processes of the hosts take together, and some more."""


class StepError(Exception):
    """What did not come about, and the end of its log."""


@dataclass(slots=True)
class Cluster:
    """The hosts with all that runs on them. work: a folder that all of them share, as they do the disk."""

    work: Path
    logs: Path
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    password: str = field(default_factory=lambda: secrets.token_hex(16))
    servers: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    jobs: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def tracking(self) -> str:
        return f"http://{HEAD.address}:5000"

    @property
    def dashboard(self) -> str:
        return f"http://{HEAD.address}:8265"

    def environment(self, host: Host | None = None) -> dict[str, str]:
        """Of all processes of a host, or of the operator."""
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TERM", "TMPDIR") if name in os.environ}
        own = {"VETDINO_CACHE": str(self.work / f"cache{host.number if host else ''}")}
        return kept | own | HEALTH | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # a node's own; Ray's 15 on top would starve them beside other work
            "RAY_memory_monitor_refresh_ms": "0",  # each would take the whole machine's memory for its own
            "AWS_ENDPOINT_URL": f"http://{HEAD.address}:9000",
            "AWS_ACCESS_KEY_ID": "hosts",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_TRACKING_URI": self.tracking,
            "VETDINO_READ_TOKEN": self.token,
        }  # fmt: skip

    def start(self, host: Host, name: str, words: Sequence[str], **more: str) -> None:
        """A server on a host, in the background."""
        with open(self.logs / f"{name}.log", "a") as log:
            self.servers[name] = host.start([*MODEST, *words], log, self.environment(host) | more)

    def start_ray(self, host: Host) -> None:
        self.start(host, f"ray{host.number}", ray_command(host, self.work))

    def join(self, *hosts: Host) -> None:
        """Start Ray on hosts, and wait until they are in. Tried again where it ends: on a busy machine it gives up."""
        for host in hosts:
            self.start_ray(host)

        def joined() -> bool:
            for host in hosts:
                if self.servers[f"ray{host.number}"].poll() is not None:
                    self.start_ray(host)
            return {host.address for host in hosts} <= self.alive()

        wait_for(joined, f"{', '.join(host.name for host in hosts)} in Ray")

    def wait_for_port(self, port: int, of: str) -> None:
        """Wait until a server of the head answers. Raises StepError where it has ended instead."""

        def answers() -> bool:
            if self.servers[of].poll() is not None:
                raise StepError(f"{of} has ended at its start, see {self.logs / of}.log")
            return _listens(HEAD.address, port)

        wait_for(answers, f"port {port} of {of}")

    def alive(self) -> set[str]:
        """Addresses of the hosts that Ray takes for alive."""
        answer = self.get(f"{self.dashboard}/nodes?view=summary", self.token)["data"]["summary"]
        return {node["raylet"]["nodeManagerAddress"] for node in answer if node["raylet"]["state"] == "ALIVE"}

    def get(self, url: str, token: str = "", body: Any = None) -> Any:
        """The JSON with which a server answers a request that the first host sends."""
        headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {token}"} if token else {}
        )
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(url, data=data, headers=headers), timeout=30) as answer:
            return json.loads(answer.read())

    def status(self, url: str) -> int:
        """Of the answer. Raises OSError where nobody answers, or with an error."""
        with urlopen(url, timeout=30) as answer:
            return answer.status

    def submit(self, name: str, *words: str) -> Job:
        """`ray job submit` of a command, from the root of the checkout."""
        return Job(self, name, job_command(self.dashboard, name, words))


class Job:
    """A submitted job."""

    def __init__(self, cluster: Cluster, name: str, command: Sequence[str]) -> None:
        self.name, self._cluster = name, cluster
        self.began = time.monotonic()
        self._log = cluster.logs / f"job_{name}.log"
        options = {"cwd": ROOT, "env": cluster.environment(), "stdin": subprocess.DEVNULL, "text": True}
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(command, **options, stdout=log, stderr=subprocess.STDOUT)
        cluster.jobs.append(self._process)

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._log.read_text(errors="replace")

    def when(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a moment of the running job. Raises StepError where the job ends before."""

        def reached() -> bool:
            if condition():
                return True
            if not self.is_running:
                raise StepError(f"job {self.name} ended before {what}: {self.output[-3000:]}")
            return False

        wait_for(reached, f"job {self.name}: {what}", every=0.05)

    def stop(self) -> None:
        """`ray job stop`."""
        words = [str(BIN / "ray"), "job", "stop", "--address", self._cluster.dashboard, self.name]
        subprocess.run(words, env=self._cluster.environment(), check=True, capture_output=True, timeout=120)

    def finished(self) -> float:
        """Seconds that it took. Raises StepError where it has not succeeded."""
        wait_for(lambda: not self.is_running, f"end of job {self.name}", every=0.2)
        if self._process.returncode:
            raise StepError(f"job {self.name} failed: {self.output[-3000:]}")
        return time.monotonic() - self.began


def job_command(dashboard: str, name: str, words: Sequence[str]) -> list[str]:
    """The command line of docs/cluster.md; a name for the log."""
    submit = [str(BIN / "ray"), "job", "submit", "--address", dashboard, "--submission-id", name]
    return [*submit, "--working-dir", ".", "--", "python", *words]


def ray_command(host: Host, work: Path) -> list[str]:
    """`ray start` of a host: the head without cores, the others with one."""
    command = [str(BIN / "ray"), "start", "--block", "--disable-usage-stats", "--num-gpus", "0"]
    command += ["--object-store-memory", "100000000", "--node-ip-address", host.address]
    command += ["--temp-dir", str(work / f"ray{host.number}")]
    if host == HEAD:
        return [*command, "--head", "--port", "6379", "--dashboard-host", "0.0.0.0", "--num-cpus", "0"]
    return [*command, "--address", f"{HEAD.address}:6379", "--num-cpus", "1"]


@contextmanager
def cluster(work: Path, logs: Path) -> Iterator[Cluster]:
    """Within the `with` block all servers answer; the processes end with their hosts (`network`)."""
    if (free := _available_gib()) < MEMORY_GIB:
        raise HostsError(f"the hosts need {MEMORY_GIB:.0f} GiB of memory, {free:.1f} are available")
    stack = Cluster(work, logs)
    try:
        _start_postgres(stack)
        python = [sys.executable, "-m"]
        stack.start(HEAD, "store", [*python, "moto.server", "-H", "0.0.0.0", "-p", "9000"])
        stack.start_ray(HEAD)
        for name, port in {"postgres": 5432, "store": 9000, "ray0": 6379}.items():
            stack.wait_for_port(port, name)
        stack.start(HEAD, "mlflow", [*python, *_mlflow_words(stack)], **_mlflow_environment(stack))
        stack.wait_for_port(8265, "ray0")
        stack.join(*HOSTS[1:])
        stack.wait_for_port(5000, "mlflow")
        yield stack
    finally:
        for process in [*stack.servers.values(), *stack.jobs]:
            process.kill()
            process.wait()


def _available_gib() -> float:
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) / 2**20


def _start_postgres(stack: Cluster) -> None:
    """PostgreSQL refuses to run as root."""
    for program in ("initdb", "postgres", "setpriv"):
        if shutil.which(program) is None:
            raise HostsError(f"{program} is not on the PATH: MLflow's server is to run on PostgreSQL")
    folder = stack.work / "postgres"
    folder.mkdir()
    shutil.chown(folder, "postgres", "postgres")
    secret = stack.work / "postgres.password"
    secret.write_text(stack.password)
    shutil.chown(secret, "postgres", "postgres")
    user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
    access = ["--auth", "scram-sha-256", "--pwfile", str(secret), "--username", "mlflow"]
    HEAD.run([*user, "initdb", "--no-sync", *access, "-D", str(folder / "data")], stack.environment(HEAD))
    with open(folder / "data" / "pg_hba.conf", "a") as rules:
        rules.write("host all all 10.77.0.0/24 scram-sha-256\n")
    places = ["-D", str(folder / "data"), "-k", str(folder), "-h", HEAD.address]
    stack.start(HEAD, "postgres", [*user, "postgres", *places, "-c", "fsync=off"])


def _mlflow_words(stack: Cluster) -> list[str]:
    database = f"postgresql+psycopg2://mlflow:{stack.password}@{HEAD.address}/postgres"
    return [
        *("mlflow", "server", "--host", "0.0.0.0", "--port", "5000", "--workers", "1"),
        *("--backend-store-uri", database, "--artifacts-destination", "s3://mlflow/artifacts"),
        *("--allowed-hosts", f"{HEAD.address}:5000"),
    ]


def _mlflow_environment(stack: Cluster) -> dict[str, str]:
    """With psycopg2, which nothing else here needs. Raises HostsError where it cannot be installed."""
    site = stack.work / "psycopg2"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site)]
    done = subprocess.run([*pip, psycopg2_requirement()], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise HostsError(f"{psycopg2_requirement()} cannot be installed for MLflow's server: {reason}")
    return {"PYTHONPATH": str(site), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def psycopg2_requirement() -> str:
    """As the image of MLflow's server has it."""
    lock = (ROOT / "infra" / "docker" / "mlflow.lock").read_text(encoding="utf-8")
    found = re.search(r"^psycopg2-binary==[\d.]+", lock, re.MULTILINE)
    assert found is not None
    return found[0]


def wait_for(condition: Callable[[], bool], what: str, every: float = 0.5) -> None:
    """Raises StepError after PATIENCE seconds."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if condition():
                return
        except OSError:  # nobody answers yet
            pass
        if time.monotonic() > deadline:
            raise StepError(f"waited {PATIENCE:.0f} s in vain for: {what}")
        time.sleep(every)


def _listens(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((address, port)) == 0
