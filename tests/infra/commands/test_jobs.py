"""Commands as jobs: what is refused before anything is sent, and a real Ray whose nodes do not have vetdino."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from vetdino.infra import cli
from vetdino.infra.commands.jobs import OWN_FLAGS, _variables
from vetdino.infra.jobs.package import package_files
from vetdino.platform.core.errors import ConfigError

ROOT = Path(__file__).parents[3]
PATIENCE = 480
"""Seconds that a Ray may take to start, and a job to end, on a machine that is busy with other work."""


# Before anything is sent ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "fact"),
    [
        ([], 1, "give the command that shall run"),
        (["pretran", "small"], 1, "the nearest is 'pretrain'"),
        (["index"], 1, "unknown command 'index'"),
        (["app"], 1, "'app' cannot run as a job"),
        (["jobs", "list"], 1, "'jobs list' cannot run as a job"),
        (["submit", "verify", "/shards"], 1, "'submit' cannot run as a job"),
        (["pretrain", "smal", "--shards", "/s", "--out", "/o"], 1, "'small'"),
        (["pretrain", "small", "--shards", "/s", "--out", "/o", "--sedd", "3"], 2, "'--seed'"),
        (
            ["pretrain", "small", "--shards", "/s", "--out", "/o", "--batch", "7", "--workers", "2"],
            1,
            "batch 7",
        ),
        (["--adress", "http://head:8265", "verify", "/shards"], 2, "'--address'"),
        (["pretrain", "small", "--shards", "shards", "--out", "/o"], 1, "shards shards is relative"),
        (["pretrain", "small", "--shards", "s3://b/s", "--out", "runs/one"], 1, "out runs/one is relative"),
        (["ingest", "/archive", "/out", "--secret", "key"], 1, "secret key is relative"),
        (["evaluate", "/backbone", "/shards"], 1, "out runs/evaluate is relative"),  # the default
        (["embed", "here#depth=10", "/shards", "/out"], 1, "backbone here#depth=10 is relative"),
    ],
)
def test_what_no_job_can_do_is_refused_here(words, code, fact, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")  # where nobody answers
    assert cli.main(["submit", *words]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    assert fact in line


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", "small", "--shards", "/s", "s3://bucket/s", "--out", "/o", "--start", "timm:vit_small"],
        ["embed", "random:vit_small_patch16_224", "/shards", "s3://bucket/features"],
        ["index", "verify", "/gallery"],
        ["zeroshot", "segment", "/frames", "--backbone", "/weights.pth", "--out", "/masks"],
    ],
)
def test_what_a_job_can_do_is_sent(words, capsys, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    assert cli.main(["submit", *words]) == 1
    assert "no Ray answers at http://127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.parametrize("place", [0, 2])
def test_its_own_settings_may_stand_before_the_command_or_behind_it(place, capsys):
    words = ["verify", "/shards"]
    words[place:place] = ["--address", "http://127.0.0.1:1", "--detach"]
    assert cli.main(["submit", *words]) == 1
    assert "no Ray answers at http://127.0.0.1:1" in capsys.readouterr().err


def test_no_command_of_a_job_has_a_setting_that_submit_takes():
    for name in set(cli.COMMANDS) - set(cli.NOT_IN_JOBS):
        names = {field.name for field in fields(cli.COMMANDS[name].load())}
        assert not names & {flag.lstrip("-") for flag in OWN_FLAGS}, name


@pytest.mark.parametrize(
    ("uri", "passed", "said"),
    [
        ("", {}, ""),
        (
            "http://mlflow:5000",
            {"MLFLOW_TRACKING_URI": "http://mlflow:5000"},
            "gets from here: MLFLOW_TRACKING_URI",
        ),
        ("sqlite:///mlflow.db", {}, "the job does not get it"),
        ("runs/mlflow", {}, "the job does not get it"),
    ],
)
def test_of_the_variables_here_a_job_gets_the_tracking_servers(uri, passed, said, capsys, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert _variables() == passed
    assert said in capsys.readouterr().err


def test_a_tracking_server_with_a_password_is_refused(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hush@mlflow:5000")
    with pytest.raises(ConfigError, match="holds a password") as refused:
        _variables()
    assert "hush" not in str(refused.value)


# A real Ray -------------------------------------------------------------------------------------------------

BLOCKER = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "vetdino" not in getattr(finder, "__module__", "")]
"""
"""Python's start in the cluster: what `pip install --editable` put there does not find vetdino."""


def free_ports(number: int) -> list[str]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [str(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """RAY_ADDRESS and RAY_AUTH_TOKEN of a Ray that wants its token and whose nodes do not have vetdino."""
    temp = Path(tempfile.mkdtemp(prefix="r"))  # short, for there are sockets in it
    (temp / "blocker").mkdir()
    (temp / "blocker" / "sitecustomize.py").write_text(BLOCKER)
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    python = Path(sys.executable).parent
    environment = (
        os.environ
        | access
        | {
            "PYTHONPATH": str(temp / "blocker"),
            "PATH": f"{python}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(temp),
        }
    )
    environment.pop("RAY_ADDRESS", None)
    probe = [sys.executable, "-c", "import vetdino"]
    known = subprocess.run(probe, cwd=temp, env=environment, capture_output=True, text=True, timeout=60)
    assert "No module named 'vetdino'" in known.stderr
    head, address = started_head(temp, environment)
    yield {"RAY_ADDRESS": address, "RAY_AUTH_TOKEN": access["RAY_AUTH_TOKEN"], "HOME": str(temp)}
    end(head)
    shutil.rmtree(temp, ignore_errors=True)


def end(head: subprocess.Popen[bytes]) -> None:
    """Ends a Ray that was started here, and no other."""
    if head.poll() is not None:
        return
    os.killpg(head.pid, signal.SIGTERM)
    try:
        head.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()


HEAD = """
import functools, signal, sys
import ray
from ray._private import parameter, utils
port, agent = map(int, sys.argv[1:3])
parameter.RayParams = functools.partial(parameter.RayParams, dashboard_agent_listen_port=agent)
ray.init(
    num_cpus=2, num_gpus=0, object_store_memory=80_000_000, log_to_driver=False, _temp_dir=sys.argv[3],
    include_dashboard=True, dashboard_host="127.0.0.1", dashboard_port=port,
)
utils.write_ray_address(ray.get_runtime_context().gcs_address, sys.argv[3])
print("ready", flush=True)
signal.pause()
"""
"""A head without the server of `ray://`, which ends `ray start --block` where a busy machine lets it wait for 30 s. The
agent's port, which `ray.init` has no setting for, must not be that of another Ray on this machine. Its address is noted
as `ray start` does: without that, Ray leads jobs to any Ray that it finds on the machine, such as another test's."""


def started_head(temp: Path, environment: dict[str, str]) -> tuple[subprocess.Popen[bytes], str]:
    """The head of a Ray, and the address that takes jobs."""
    log = temp / "log"
    dashboard, agent = free_ports(2)
    with log.open("w") as output:
        head = subprocess.Popen(
            [sys.executable, "-c", HEAD, dashboard, agent, str(temp / "head")],
            **{"cwd": temp, "env": environment, "start_new_session": True},
            **{"stdout": output, "stderr": output},
        )
    deadline = time.monotonic() + PATIENCE
    while "ready" not in log.read_text():
        if head.poll() is not None or time.monotonic() > deadline:
            end(head)
            raise AssertionError(log.read_text())
        time.sleep(0.5)
    return head, f"http://127.0.0.1:{dashboard}"


@pytest.fixture
def start(cluster, tmp_path) -> Callable[..., subprocess.Popen[str]]:
    """Starts `vetdino …` in a folder that has nothing to do with it; `package`: the folder that vetdino is found in."""

    def started(*words: str, package: Path = ROOT, **more: str) -> subprocess.Popen[str]:
        environment = os.environ | cluster | {"PYTHONPATH": str(package)} | more
        environment.pop("RAY_AUTH_MODE", None)
        command = [sys.executable, "-m", "vetdino", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes)

    return started


@pytest.fixture
def run(start) -> Callable[..., tuple[int, str, str]]:
    """Runs it to its end: exit code, stdout and stderr."""

    def ended(*words: str, **more: str) -> tuple[int, str, str]:
        with start(*words, **more) as process:
            out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err

    return ended


@pytest.fixture
def installed(tmp_path) -> Path:
    """A folder with vetdino as `pip install` leaves it there, without its settings."""
    for path in package_files():
        (tmp_path / "site" / "vetdino" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, tmp_path / "site" / "vetdino" / path)
    return tmp_path / "site"


@pytest.mark.slow
def test_the_token_is_asked_for_and_a_wrong_one_refused(cluster, run):
    code, out, err = run("submit", "verify", "/shards", RAY_AUTH_TOKEN="")
    assert (code, out) == (1, "")
    assert "wants its token, and none is here" in err
    code, out, err = run("jobs", "list", RAY_AUTH_TOKEN="0" * 32)
    assert (code, out) == (1, "")
    assert err.startswith("vetdino: ")
    assert "refuses the token of RAY_AUTH_TOKEN" in err
    assert "0" * 32 not in err


@pytest.mark.slow
def test_a_checkout_and_an_installed_vetdino_run_on_nodes_without_it(cluster, run, installed, tmp_path):
    archive, shards, key = (str(tmp_path / name) for name in ("archive", "shards", "key"))
    more = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1/of-this-test"}
    code, out, err = run("submit", "phantom", archive, "--studies", "4", "--side", "64", **more)
    assert code == 0, err
    assert out.splitlines()[-1] == archive
    assert 'the job gets from here: MLFLOW_TRACKING_URI"' in err
    assert "of-this-test" not in err
    assert cluster["RAY_AUTH_TOKEN"] not in out + err
    assert '{"progress": "phantom", "done": 4, "total": 4' in err
    # With actors on the cluster's nodes, which import vetdino, too.
    words = ["ingest", f"{archive}/dicom", shards, "--secret", key, "--dicom.search-text", "none"]
    code, out, err = run("submit", *words, package=installed)
    assert code == 0, err
    assert "waiting for 1 node" in err
    assert out.splitlines()[-1] == shards
    code, out, err = run("submit", "verify", f"{shards}-gone")
    assert code == 1
    assert err.splitlines()[-1].startswith(f"vetdino: {shards}-gone: no manifest.json here")
    code, out, err = run("jobs", "list")
    assert code == 0, err
    newest = [(line.split()[1], line.split()[4:6]) for line in out.splitlines()]
    assert newest[:3] == [
        ("FAILED", ["vetdino", "verify"]),
        ("SUCCEEDED", ["vetdino", "ingest"]),
        ("SUCCEEDED", ["vetdino", "phantom"]),
    ]


@pytest.mark.slow
def test_ctrl_c_leaves_the_job_alone_and_stop_ends_it_as_ctrl_c_would(run, start, tmp_path):
    out = tmp_path / "many"
    with start(
        "submit", "phantom", str(out), "--studies", "9000", "--side", "64", "--workers", "1"
    ) as process:
        for line in process.stderr:
            if line.startswith('{"progress"'):
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    [line] = [json.loads(line)["message"] for line in err.splitlines() if " goes on: " in line]
    job = line.split()[0]
    assert f"`vetdino jobs logs {job}` shows it, `vetdino jobs stop {job}` ends it" in line
    code, listed, err = run("jobs", "list")
    assert listed.split()[:2] == [job, "RUNNING"], err
    assert run("jobs", "stop", job)[:2] == (0, f"{job} STOPPED\n")
    code, _, err = run("jobs", "logs", job)
    assert code == 143
    assert err.splitlines()[-1] == "vetdino: stopped; run the same command again to continue"
    assert not (tmp_path / ".many.lock").exists()
    code, _, err = run("jobs", "stop", "raysubmit_none")
    assert code == 1
    assert "knows no such job" in err
