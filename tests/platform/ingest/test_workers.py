"""Processes that decode: where they may start, what they know, and whose script they leave alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import vetdino
from vetdino.platform.core.errors import ConfigError
from vetdino.platform.ingest.workers import check_temporary_folder, worker_context, worker_environment

ROOT = Path(vetdino.__file__).parent


@pytest.mark.parametrize("folder", ["x" * 80, "nowhere"])
def test_a_folder_for_temporary_files_that_cannot_be_used_is_named(tmp_path, folder, monkeypatch):
    check_temporary_folder()
    path = tmp_path / folder
    if folder != "nowhere":
        path.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(path))
    with pytest.raises(ConfigError, match=r"set TMPDIR to") as refusal:
        worker_context()
    assert folder in str(refusal.value)


def test_where_there_is_no_such_folder_it_is_said(monkeypatch):
    def nothing():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", nothing)
    with pytest.raises(ConfigError, match="set TMPDIR"):
        check_temporary_folder()


def environment_of_worker(pipe, environment):
    from vetdino.platform.ingest.workers import prepare_worker

    prepare_worker(environment, 1.0)
    pipe.send(dict(os.environ))


def test_a_worker_has_the_environment_of_now_without_tokens(monkeypatch):
    context = worker_context()
    for value in ("early", "late"):
        monkeypatch.setenv("VETDINO_TEST", value)
        monkeypatch.setenv("VETDINO_READ_TOKEN", "CANARY7" * 4)
        monkeypatch.setenv("VETDINO_ADMIN_TOKEN", "CANARY7" * 4)
        near, far = context.Pipe()
        process = context.Process(target=environment_of_worker, args=(far, worker_environment()))
        process.start()
        environment = near.recv()
        process.join()
        assert environment["VETDINO_TEST"] == value
        assert "CANARY7" not in str(environment)


SCRIPT = """
import os, sys, time
sys.path.insert(0, {root!r})
from pebble import ProcessPool
from vetdino.platform.ingest.workers import worker_context
print("script", flush=True)
pool = ProcessPool(1, max_tasks=1, context=worker_context())
pids = {{pool.schedule(os.getpid).result(timeout=60) for _ in range(3)}}
pool.close()
pool.join()
print("done", len(pids))
"""


@pytest.mark.slow
def test_processes_that_replace_others_do_not_run_the_script_again(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(root=str(ROOT)))
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.splitlines() == ["script", "done 3"], done.stderr
