"""Facts of this machine, and of folders that look like `/proc` and `/sys` of others."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from vetdino.infra.doctor.facts import Inquiry
from vetdino.infra.doctor.gather import (
    answers,
    cores,
    cuda_facts,
    folder_facts,
    gather,
    is_taken,
    memory,
    nvidia_cards,
    ray_facts,
)


def tree(root: Path, **files: str) -> Path:
    """Files by path, with `__` for `/` and `_DOT_` for `.`."""
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_this_machine_is_known_without_a_failure(tmp_path):
    facts = gather(Inquiry(folders=(("--out", str(tmp_path / "new"), True),), ports=(1,)))
    assert facts.failures == {}
    assert facts.host == socket.gethostname()
    assert facts.packages["torch"]
    assert facts.cores
    assert facts.memory
    assert facts.open_files
    assert abs(facts.clock - time.time()) < 60
    assert [folder.name for folder in facts.folders][:3] == ["--out", "temporary files", "Ray's folder"]
    assert list(tmp_path.iterdir()) == []


def test_a_probe_that_fails_or_hangs_costs_no_other():
    def fails():
        raise OSError("gone\n away")

    values, failures = answers({"a": lambda: {"x": 1}, "b": fails, "c": lambda: time.sleep(60) or {}}, 0.5)
    assert values == {"a": {"x": 1}}
    assert failures == {"b": "OSError: gone away", "c": "no answer within 0.5 s"}


# Containers ------------------------------------------------------------------------------------------------

MEMINFO = "MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\n"


def test_without_a_limit_memory_and_cores_are_the_machines(tmp_path):
    root = tree(
        tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="0::/\n", sys__fs__cgroup__memory_DOT_max="max\n"
    )
    assert memory(root) == {"memory": 16_384_000_000, "memory_limit": None, "memory_free": 8_192_000_000}
    assert cores(root)["usable_cores"] == len(os.sched_getaffinity(0))


def test_the_smallest_limit_on_the_way_up_counts(tmp_path):
    root = tree(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="0::/pod/container\n",
        sys__fs__cgroup__pod__memory_DOT_max="2000000000\n",
        sys__fs__cgroup__pod__container__memory_DOT_max="3000000000\n",
        sys__fs__cgroup__pod__cpu_DOT_max="50000 100000\n",
    )
    assert memory(root)["memory_limit"] == 2_000_000_000
    assert cores(root)["usable_cores"] == 0.5


def test_version_1_and_the_names_of_the_host_are_understood(tmp_path):
    root = tree(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="4:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n2:pids:/x\n",
        sys__fs__cgroup__memory__memory_DOT_limit_in_bytes="1000000000\n",
        sys__fs__cgroup__cpu__cpu_DOT_cfs_quota_us="25000\n",
        sys__fs__cgroup__cpu__cpu_DOT_cfs_period_us="100000\n",
    )
    (root / "sys/fs/cgroup/cpu,cpuacct").symlink_to("cpu")
    assert memory(root)["memory_limit"] == 1_000_000_000
    assert cores(root)["usable_cores"] == 0.25


# GPUs ------------------------------------------------------------------------------------------------------


def test_cards_are_those_of_nvidia_that_draw_or_compute(tmp_path):
    for number, (vendor, kind) in enumerate(
        [("0x10de", "0x030200"), ("0x10de", "0x040300"), ("0x1002", "0x030000")]  # GPU, its sound, AMD's
    ):
        tree(tmp_path, **{f"sys__bus__pci__devices__{number}__vendor": vendor})
        tree(tmp_path, **{f"sys__bus__pci__devices__{number}__class": kind})
    assert nvidia_cards(tmp_path) == 1


def test_where_there_is_no_card_torch_is_not_asked(tmp_path):
    assert cuda_facts(tmp_path) is None or Path("/dev/nvidiactl").exists()


def test_a_card_without_a_driver_is_known(tmp_path):
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a driver")
    tree(
        tmp_path, sys__bus__pci__devices__0__vendor="0x10de\n", sys__bus__pci__devices__0__class="0x030200\n"
    )
    tree(
        tmp_path,
        proc__driver__nvidia__version="NVRM version: NVIDIA UNIX Open Kernel Module  580.65.06  Release\n",
    )
    facts = cuda_facts(tmp_path)
    assert (facts.cards, facts.driver, facts.driver_cuda, facts.gpus) == (1, "580.65.06", None, ())


# Folders, ports, Ray ---------------------------------------------------------------------------------------


def test_a_folder_is_tried_and_left_as_it_was(tmp_path):
    facts = folder_facts("--out", str(tmp_path / "a" / "b"), True, mark="mark")
    assert (facts.error, facts.existing, facts.marked) == ("", str(tmp_path), False)
    assert facts.free > 0
    assert facts.clock[0] <= 0.1
    assert facts.clock[1] >= -0.1
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mark").touch()
    assert folder_facts("--out", str(tmp_path), True, mark="mark").marked


def test_a_file_in_the_way_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    assert folder_facts("--out", str(tmp_path / "file" / "out"), True).error.startswith("Not a directory")


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder that not even root can write")
def test_a_folder_that_refuses_is_an_error():
    facts = folder_facts("--out", "/sys/kernel", True)
    assert "/sys/kernel/.vetdino-doctor-" in facts.error


def test_shards_are_known_by_their_manifest(tmp_path):
    assert "No such file" in folder_facts("--shards", str(tmp_path), False).error
    (tmp_path / "manifest.json").write_text("{}")
    first = folder_facts("--shards", str(tmp_path), False)
    (tmp_path / "manifest.json").write_text("{ }")
    second = folder_facts("--shards", str(tmp_path), False)
    assert first.error == second.error == ""
    assert first.content != second.content
    assert replace(first, content="") == replace(second, content="")


def test_a_port_is_taken_while_somebody_listens():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert is_taken(port)
    assert not is_taken(port)


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "http://127.0.0.1:{}", "ray://127.0.0.1:{}/"])
def test_an_address_answers_while_somebody_listens(form, monkeypatch):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        monkeypatch.setenv("RAY_ADDRESS", form.format(listener.getsockname()[1]))
        assert ray_facts().answers is True
    assert ray_facts().answers is False


def test_a_token_is_said_to_be_there_and_never_said(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "geheim")
    facts = ray_facts()
    assert (facts.answers, facts.token) == (None, "RAY_AUTH_TOKEN")
    assert "geheim" not in repr(facts)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    assert ray_facts().token == ""
    (tmp_path / "none").write_text("geheim")
    assert ray_facts().token == str(tmp_path / "none")


def test_the_ray_that_was_started_last_here_counts_while_it_answers(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        tree(tmp_path, ray__ray_current_cluster=address)
        assert ray_facts().local == address
    assert (ray_facts().local, ray_facts().folder) == ("", str(tmp_path / "ray"))
