"""`vetdino doctor` on this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.infra.doctor.made_up import machine
from vetdino.infra import cli
from vetdino.infra.doctor import examine as module
from vetdino.infra.doctor.config import DoctorConfig
from vetdino.infra.doctor.examine import PORTS, examine
from vetdino.platform.core.location import Location

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch, tmp_path):
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


def test_the_ports_are_those_of_the_commands():
    assert [port for port, use in PORTS.items() if "vetdino" in use] == [7860, 8600]


def test_this_machine_is_described(tmp_path):
    lines = [str(finding) for finding in examine(DoctorConfig(out=Location(tmp_path / "run")))]
    for start in ("GPUs", "cores", "memory", "shared memory", "open files", "clock", "Python", "packages"):
        assert any(line[9:].startswith(start) for line in lines), start
    assert any(line.startswith(f"ok       --out {tmp_path / 'run'}: writable") for line in lines)
    assert not [line for line in lines if "failed itself" in line]
    assert not (tmp_path / "run").exists()


def test_a_machine_without_problems_is_ready(monkeypatch, capsys):
    monkeypatch.setattr(module, "gather", lambda inquiry: machine(packages={}, failures={"packages": "slow"}))
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "warning  packages: slow; mend the cause and run it again",
        "ready, 1 warning",
    ]


def test_a_problem_makes_it_not_ready(tmp_path, capsys):
    assert cli.main(["doctor", "--shards", str(tmp_path / "none")]) == 1
    printed = capsys.readouterr()
    assert f"problem  --shards {tmp_path / 'none'}: No such file" in printed.out
    assert printed.err.startswith("vetdino: not ready: ")


def test_a_folder_that_does_not_answer_is_a_problem(monkeypatch):
    facts = machine(failures={"--out /data": "no answer within 30 s"})
    monkeypatch.setattr(module, "gather", lambda inquiry: facts)
    lines = [str(finding) for finding in examine(DoctorConfig())]
    assert "problem  --out /data: no answer within 30 s; mend the cause and run it again" in lines


def test_a_check_that_fails_stops_no_other(monkeypatch):
    monkeypatch.setattr(module, "wanted", lambda: 1 / 0)
    lines = [str(finding) for finding in examine(DoctorConfig())]
    assert any("packages: the check failed itself (ZeroDivisionError" in line for line in lines)
    assert lines[-1][9:].startswith("Ray")


@pytest.mark.parametrize(
    ("address", "what"),
    [("", "no Ray runs here"), ("http://127.0.0.1:9", "leads to no Ray"), ("127.0.0.1:9", "leads to no Ray")],
)
def test_a_cluster_that_cannot_be_asked_is_a_problem(address, what, monkeypatch):
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    *_, last = examine(DoctorConfig(cluster=True))
    assert (last.state, what in last.what) == ("problem", True)
    assert "vetdino submit doctor --cluster" in last.mend


def test_it_starts_without_a_heavy_library():
    program = (
        "import sys\nfrom vetdino.infra.cli import main\nmain(['doctor'])\n"
        "print(sorted({'torch', 'ray', 'numpy', 'gradio', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    loaded = done.stdout.splitlines()[-1]
    assert loaded == "[]" or Path("/dev/nvidiactl").exists(), done.stdout + done.stderr
