"""Nodes of a cluster: what is wrong on one, what differs between them, and a real Ray of two."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.infra.doctor.made_up import GIB, H200, cuda, machine
from tests.platform.ingest.test_team import cluster  # noqa: F401
from vetdino.infra.doctor.cluster import NodeAnswer, differences, node_findings, node_names
from vetdino.infra.doctor.facts import FolderFacts, GpuFacts
from vetdino.infra.doctor.software import Wanted

ROOT = Path(__file__).parents[3]

WANTED = Wanted(
    base=("torch>=2.11", "numpy"), extras={"train": ("ray[train]>=2.60",)}, python=">=3.11", lock={}
)
OUT = FolderFacts(name="--out", path="/data/run", written=True, existing="/data", total=9 * GIB, free=9 * GIB)
OUT = replace(OUT, total=900 * GIB, free=500 * GIB)
SHARDS = FolderFacts(
    name="--shards", path="/data/shards", written=False, existing="/data/shards", content="ab"
)


def node(name: str = "gpu-2", clock=(-0.001, 0.002), **changed) -> NodeAnswer:
    return NodeAnswer(name, machine(host=name, **changed), clock)


def complaints(*answers: NodeAnswer, here=None) -> list[str]:
    found = node_findings(here or machine(), answers, WANTED)
    return [str(finding) for finding in found if finding.state != "ok"]


def test_equal_nodes_have_a_line_each_and_two_for_all():
    lines = [str(finding) for finding in node_findings(machine(), [node("gpu-1"), node()], WANTED)]
    assert lines == [
        "ok       node gpu-1: 2 x NVIDIA H200, 64 cores, 512 GiB",
        "ok       node gpu-2: 2 x NVIDIA H200, 64 cores, 512 GiB",
        "ok       versions: the same Python, vetdino and 3 packages on all nodes",
        "ok       clocks: within 0.002 s of this machine's on all nodes that answered",
    ]


def test_a_node_that_does_not_answer_is_a_problem():
    [line] = complaints(NodeAnswer("gpu-2", None, failure="no answer within 90 s"))
    assert line.startswith("problem  node gpu-2: no answer within 90 s; look at it with `ray status`")


def test_what_is_wrong_on_a_node_names_it():
    [line] = complaints(node(shared_memory=(2**26, 2**26)))
    assert line.startswith("problem  node gpu-2: shared memory: 64 MiB free")


def test_what_is_wrong_here_is_not_said_again_of_the_same_machine():
    little = {"shared_memory": (2**26, 2**26)}
    assert complaints(node("gpu-1", **little), here=machine(**little)) == []
    assert len(complaints(node("gpu-2", **little), here=machine(**little))) == 1


def test_what_a_node_could_not_find_out_is_said():
    [line] = complaints(node(failures={"GPUs": "no answer within 30 s"}))
    assert line == "warning  node gpu-2: GPUs: no answer within 30 s"


@pytest.mark.parametrize(
    ("theirs", "what"),
    [
        (
            replace(OUT, marked=False),
            "--out /data/run: is another folder than here; it must be on a disk that",
        ),
        (replace(OUT, error="Permission denied", marked=True), "--out /data/run: Permission denied; choose"),
        (
            replace(SHARDS, content="cd"),
            "--shards /data/shards: other shards than here; it must be on a disk",
        ),
        (
            replace(SHARDS, content="", error="No such file"),
            "--shards /data/shards: No such file; it must be",
        ),
    ],
)
def test_a_folder_that_a_node_does_not_share_is_a_problem(theirs, what):
    [line] = complaints(node(folders=(theirs,)), here=machine(folders=(OUT, SHARDS)))
    assert line.startswith(f"problem  node gpu-2: {what}")


def test_folders_that_are_shared_are_well():
    shared = (replace(OUT, marked=True), replace(SHARDS, marked=False))
    assert complaints(node(folders=shared), here=machine(folders=(OUT, SHARDS))) == []


@pytest.mark.parametrize(
    ("clock", "state"), [((5.0, 5.5), "warning"), ((-1000.0, -999.0), "problem"), ((-20.0, 1.0), None)]
)
def test_a_clock_that_is_off_for_certain_is_said(clock, state):
    lines = complaints(node(clock=clock))
    assert [line.split()[0] for line in lines] == [state] * (state is not None)
    assert all("clock: " in line and "this machine's; set both (NTP" in line for line in lines)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            {"python": "3.12.1"},
            "problem  python differs: 3.11.7 on here; 3.12.1 on gpu-2; install one version",
        ),
        ({"vetdino": "0.2"}, "problem  vetdino differs: 0.1.0 on here; 0.2 on gpu-2"),
        (
            {"vetdino": ""},
            "warning  vetdino is not on gpu-2; start commands as jobs, which bring it: `vetdino submit",
        ),
        (
            {"packages": {"torch": "2.13", "ray": "2.60.0", "numpy": "2.4"}},
            "problem  torch differs: 2.14.1 on here; 2.13 on gpu-2",
        ),
        (
            {"packages": {"torch": "2.14.1", "ray": "2.60.0", "numpy": "2.3"}},
            "warning  numpy differs: 2.4 on here; 2.3 on gpu-2",
        ),
        (
            {"cuda": cuda(GpuFacts("A100", 80 * GIB, (8, 0)))},
            "warning  GPUs differ: NVIDIA H200 on here; A100 on gpu-2",
        ),
    ],
)
def test_what_differs_between_machines_is_named(changed, line):
    found = differences({"here": machine(), "gpu-2": machine(**changed)}, WANTED)
    [said] = [str(finding) for finding in found if finding.state != "ok"]
    assert said.startswith(line)


def test_of_many_nodes_the_first_are_named():
    machines = {"here": machine()} | {f"n{number}": machine(python="3.12.1") for number in range(6)}
    [said, *_] = map(str, differences(machines, WANTED))
    assert "3.12.1 on n0, n1, n2 and 3 more" in said


def test_nodes_without_gpus_do_not_differ_from_those_with():
    found = differences({"here": machine(cuda=None), "gpu-2": machine(cuda=cuda(H200))}, WANTED)
    assert [finding.state for finding in found] == ["ok"]


def test_nodes_of_one_address_are_told_apart():
    rows = [
        {"NodeManagerHostname": "a", "NodeManagerAddress": address, "NodeID": ident * 8}
        for address, ident in (("10.0.0.1", "1"), ("10.0.0.1", "2"), ("10.0.0.2", "3"))
    ]
    assert node_names(rows) == ["a (10.0.0.1, 11111111)", "a (10.0.0.1, 22222222)", "a (10.0.0.2)"]


ASK = (
    "from vetdino.infra.doctor.cluster import ask_nodes\n"
    "from vetdino.infra.doctor.facts import Inquiry\n"
    "from vetdino.platform.training.cluster import ray_connection\n"
    "with ray_connection():\n"
    "    for answer in ask_nodes(Inquiry(), (), seconds=10):\n"
    "        print(answer.failure or 'answers')\n"
)


@pytest.mark.slow
def test_both_nodes_of_a_real_cluster_are_asked_and_one_that_hangs_is_noticed(cluster, tmp_path):  # noqa: F811
    environment = os.environ | cluster | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "vetdino", "doctor", "--cluster", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    nodes = [line for line in lines if line.startswith("ok       node ")]
    assert len(nodes) == 2, done.stdout + done.stderr
    assert not [line for line in lines if line.startswith("problem  node")]
    assert f"ok       --out {tmp_path / 'run'}: writable" in done.stdout
    assert "ok       versions: the same Python, vetdino" in done.stdout
    assert "ok       clocks: within 0." in done.stdout
    assert list(tmp_path.iterdir()) == []
    port = cluster["RAY_ADDRESS"].rpartition(":")[2]
    [hanging] = [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "raylet"
        and any(word.endswith(f":{port}") for word in process.info["cmdline"])
        and "--head" not in process.info["cmdline"]
    ]
    hanging.send_signal(signal.SIGSTOP)
    try:
        command = [sys.executable, "-c", ASK]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    finally:
        hanging.send_signal(signal.SIGCONT)
    assert sorted(done.stdout.splitlines()) == ["answers", "no answer within 10 s"], done.stderr
