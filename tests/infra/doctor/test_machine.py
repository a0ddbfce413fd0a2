"""What is judged of a machine itself, on made-up facts."""

from __future__ import annotations

import pytest

from tests.infra.doctor.made_up import GIB, H200, V100, cuda, machine
from vetdino.infra.doctor.facts import GpuFacts, MachineFacts
from vetdino.infra.doctor.machine import has_kernels, machine_findings


def test_of_an_unknown_machine_only_the_missing_gpus_are_said():
    assert [str(finding) for finding in machine_findings(MachineFacts())] == [
        "ok       GPUs: no card of NVIDIA; networks compute on the CPU"
    ]


def test_nothing_is_wrong_with_a_good_machine():
    found = list(machine_findings(machine()))
    assert {finding.state for finding in found} == {"ok"}
    assert [finding.what.partition(":")[0] for finding in found] == [
        "GPUs",
        "cores",
        "memory",
        "shared memory",
        "open files",
        "clock",
    ]
    assert "2 x NVIDIA H200 (141 GiB); driver 580.65.06 runs CUDA 13.0" in found[0].what


CASES = [
    # GPUs, from the ground up
    ({"cuda": cuda(driver_cuda=None)}, "problem", "2 cards of NVIDIA, but no driver", "--gpus all"),
    ({"cuda": cuda(), "packages": {}}, "problem", "but torch is not installed", "pip install torch"),
    ({"cuda": cuda(torch_cuda=None)}, "problem", "torch 2.14.1 is one without CUDA", "NNN at most 130"),
    (
        {"cuda": cuda(torch_cuda=None, error="OSError: x")},
        "problem",
        "cannot be imported (OSError: x)",
        "pip",
    ),
    ({"cuda": cuda(driver_cuda=(12, 4))}, "problem", "runs CUDA 12.4 at most", "a torch for CUDA 12"),
    ({"cuda": cuda(visible="")}, "warning", "hidden by CUDA_VISIBLE_DEVICES=''", "unset it"),
    ({"cuda": cuda(error="error 802")}, "problem", "does not see them (error 802)", "`nvidia-smi`"),
    ({"cuda": cuda(H200)}, "warning", "torch sees 1 of 2 cards", "nvidia-smi"),
    (
        {"cuda": cuda(V100, cards=1)},
        "problem",
        "no kernels for Tesla V100 (sm_70)",
        "a torch that supports it",
    ),
    (
        {"cuda": cuda(V100, cards=1, architectures=("sm_70",))},
        "warning",
        "has no bfloat16",
        "--optim.precision float32",
    ),
    (
        {"cuda": cuda(H200, GpuFacts("A100", 80 * GIB, (8, 0)))},
        "warning",
        "of several kinds",
        "CUDA_VISIBLE_DEVICES",
    ),
    # cores
    ({"usable_cores": 12.5}, "warning", "12.5 of 64", "--workers 12"),
    ({"usable_cores": 4.0}, "warning", "4 for 2 GPUs", "8 or more"),
    # memory
    ({"memory": GIB}, "problem", "memory: 1 GiB", "8 GiB or more"),
    (
        {"memory_limit": 4 * GIB},
        "warning",
        "memory: 4 GiB (the container's limit; the machine has 512 GiB)",
        "",
    ),
    ({"memory_free": 5 * GIB}, "warning", "5 GiB of 512 GiB is free", "end other programs"),
    # shared memory: Docker's 64 MiB; too little for Ray; full
    ({"shared_memory": (2**26, 2**26)}, "problem", "64 MiB free of 64 MiB", "--shm-size 10g"),
    ({"shared_memory": (4 * GIB, 4 * GIB)}, "warning", "below 9.3 GiB Ray keeps", "--shm-size 10g"),
    ({"shared_memory": (64 * GIB, GIB)}, "warning", "1 GiB free of 64 GiB", "remove what other"),
    # open files
    ({"open_files": (256, 65536)}, "problem", "256 a process (hard limit 65536)", "`ulimit -n 8192`"),
    ({"open_files": (1024, 4096)}, "warning", "Ray recommends 8192", "limits.conf"),
    # clock
    ({"clock": 1e9}, "problem", "clock: 2001-09-09", "NTP"),
]


@pytest.mark.parametrize(("changed", "state", "what", "mend"), CASES)
def test_each_fault_is_found_with_its_mend(changed, state, what, mend):
    found = [finding for finding in machine_findings(machine(**changed)) if finding.state != "ok"]
    finding = found[-1]
    assert {finding.state for finding in found} == {state}
    assert what in finding.what
    assert mend in finding.mend
    assert finding.mend


@pytest.mark.parametrize(
    "changed",
    [
        {"cuda": cuda(H200, visible="1")},  # one of two, as asked for
        {"cuda": cuda(H200, H200, driver_cuda=(13, 2))},  # newer than torch's
        {"cuda": cuda(H200, H200, torch_cuda="13.3")},  # a later minor version runs on an earlier driver
        {"memory": 8 * GIB - 2**28, "memory_free": 6 * GIB},  # the kernel keeps some of 8 GiB
        {"open_files": (1024, 65536)},  # Ray raises it itself
        {"open_files": (-1, -1)},  # unlimited
        {"memory": 16 * GIB, "memory_free": 9 * GIB, "shared_memory": (5 * GIB, 5 * GIB)},
    ],
)
def test_what_is_well_is_not_complained_of(changed):
    assert [finding for finding in machine_findings(machine(**changed)) if finding.state != "ok"] == []


def test_gpus_that_could_not_be_looked_at_are_not_called_absent():
    facts = machine(cuda=None, failures={"GPUs": "no answer within 30 s"})
    assert not [finding for finding in machine_findings(facts) if finding.what.startswith("GPUs")]


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((9, 0), ("sm_90a",), True),
        ((8, 6), ("sm_80",), True),
        ((8, 0), ("sm_86",), False),
        ((12, 0), ("sm_120",), True),
        ((10, 3), ("sm_90", "compute_90"), True),
        ((10, 3), ("sm_90",), False),
        ((9, 0), ("gfx942",), True),
        ((9, 0), (), True),
    ],
)
def test_kernels_run_within_a_major_version_and_ptx_on_later_ones(capability, built, runs):
    assert has_kernels(GpuFacts("x", 0, capability), built) is runs
