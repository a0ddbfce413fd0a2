"""What needs no Ray, and how one ends; the jobs of pretraining and fine-tuning run the rest on a real one."""

from __future__ import annotations

import atexit
import json
import os
import socket
import threading
import time

import psutil
import pytest
import ray
import torch

from vetdino.platform.core.errors import ConfigError, TrainingError
from vetdino.platform.training.cluster import (
    FAILURE,
    NodeSize,
    WorkerConfig,
    WorkerContext,
    _noted_ray_is_gone,
    _training_error,
    cores_each,
    ray_connection,
    read_status,
    report_stage,
    report_warning,
    run_on_ray,
    start_ray,
    warn_of_missing_gpus,
    watch_status,
)


class Lingering:
    """An actor whose process never ends by itself, as Ray's own do not now and then."""

    def pid(self) -> int:
        return os.getpid()

    def leave(self) -> None:
        atexit.register(time.sleep, 1000)
        ray.actor.exit_actor()


@pytest.mark.slow
def test_of_a_ray_that_was_started_here_no_process_stays():
    with ray_connection():
        actor = ray.remote(Lingering).remote()
        process = psutil.Process(ray.get(actor.pid.remote()))
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(actor.leave.remote())
        assert process.is_running()
    assert psutil.wait_procs([process], timeout=10)[1] == []


def test_no_status_yet_says_nothing(tmp_path):
    assert read_status(tmp_path / "status.json") == {}


def test_a_half_written_status_says_nothing(tmp_path):
    (tmp_path / "status.json").write_text('{"step": 1')
    assert read_status(tmp_path / "status.json") == {}


def test_a_status_is_reported_meanwhile_and_its_last_state_at_the_end(tmp_path):
    status, seen, met = tmp_path / "status.json", [], threading.Event()

    def report(content):
        seen.append(content.get("step"))
        if content.get("step") == 1:
            met.set()

    status.write_text(json.dumps({"step": 1}))
    with watch_status(status, report):
        assert met.wait(20)
        status.write_text(json.dumps({"step": 7}))
    assert (seen[0], seen[-1]) == (1, 7)
    assert not [thread for thread in threading.enumerate() if "watch" in thread.name]


def test_a_stage_is_added_by_the_first_worker_and_removed_again(tmp_path):
    status, first, second = tmp_path / "status.json", *(WorkerContext(rank, 2, None) for rank in (0, 1))
    report_stage(status, second, "loading")
    assert read_status(status) == {}
    report_stage(status, first, "loading")
    status.write_text(json.dumps({"step": 3, **read_status(status)}))
    report_stage(status, first, "the first steps")
    assert read_status(status) == {"step": 3, "stage": "the first steps"}
    report_stage(status, first, "")
    assert read_status(status) == {"step": 3}


def test_a_watch_ends_with_an_error_too(tmp_path):
    before = threading.active_count()
    with pytest.raises(KeyError), watch_status(tmp_path / "status.json", lambda content: None):
        raise KeyError
    assert threading.active_count() == before


def test_workers_lost_too_often_end_in_the_last_line_of_ray_and_what_to_do(tmp_path):
    lost = RuntimeError("many lines of Ray\nActor died: killed by signal 9")
    error = _training_error(lost, WorkerConfig(restarts=3), tmp_path / FAILURE, lambda: "run again")
    assert str(error) == "the workers failed more than 3 times (Actor died: killed by signal 9); run again"


def test_a_full_memory_is_named(tmp_path):
    lost = RuntimeError(
        "Worker died.\nRefer to the documentation on the out of memory issue: https://… Consider …"
    )
    error = _training_error(lost, WorkerConfig(restarts=3), tmp_path / FAILURE, lambda: "run again")
    assert "memory was full" in str(error)
    assert "documentation" not in str(error)


def test_the_message_that_a_worker_left_comes_first(tmp_path):
    (tmp_path / FAILURE).write_text("study 12: view 0 is no picture")
    error = _training_error(
        RuntimeError("Ray's own words"), WorkerConfig(), tmp_path / FAILURE, lambda: "run again"
    )
    assert isinstance(error, TrainingError)
    assert str(error) == "study 12: view 0 is no picture"


def test_a_lone_worker_needs_no_process_group_to_wait_in():
    assert not torch.distributed.is_initialized()
    assert WorkerContext(rank=0, world_size=1, device=torch.device("cpu")).barrier() is None


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("vetdino.platform.core.extras.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"vetdino\[train\]"):
        run_on_ray(print, None, WorkerConfig(), tmp_path, str)


def test_a_noted_ray_that_is_gone_is_not_waited_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not _noted_ray_is_gone()
    note = tmp_path / "ray" / "ray_current_cluster"
    note.parent.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        note.write_text(f"127.0.0.1:{listener.getsockname()[1]}")
        assert not _noted_ray_is_gone()
    assert _noted_ray_is_gone()
    assert "does not answer; another one is started" in capsys.readouterr().err
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert not _noted_ray_is_gone()


def test_the_address_of_a_dashboard_is_refused_with_the_command_for_it(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    with pytest.raises(ConfigError, match="vetdino submit"):
        start_ray()


def test_a_warning_is_added_to_the_status_by_the_first_worker(tmp_path):
    status = tmp_path / "status.json"
    for rank, text in ((0, "one"), (1, "of another"), (0, "two")):
        report_warning(status, WorkerContext(rank, 2, torch.device("cpu")), text)
    assert read_status(status) == {"warnings": ["one", "two"]}


@pytest.mark.parametrize(
    ("device", "gpus", "address", "warned"),
    [
        ("auto", 0, "10.0.0.1:6379", True),
        ("auto", 0, None, False),
        ("auto", 2, "x", False),
        ("cpu", 0, "x", False),
    ],
)
def test_a_running_ray_without_gpus_is_a_warning_under_auto(
    device, gpus, address, warned, monkeypatch, capsys
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    warn_of_missing_gpus(device, gpus)
    assert ("give --device cuda" in capsys.readouterr().err) == warned


@pytest.mark.parametrize(
    ("nodes", "count", "most", "gpu", "cores"),
    [
        ([(2, 0)], 1, 2, False, 2),
        ([(2, 0)], 4, 1, False, 0.5),
        ([(1, 0), (1, 0)], 2, 1, False, 1),
        (
            [(3, 0), (3, 0), (3, 0)],
            4,
            2,
            False,
            1,
        ),  # 2 each would be 8 of 9 cores, and no room for the fourth
        ([(96, 8)], 8, 12, True, 12),
        ([(16, 0), (8, 8)], 8, 3, True, 1),  # the cores of a node without GPUs are of no use
        ([(4, 8)], 8, 1, True, 0.5),
        ([(96, 8)], 16, 6, True, 1),  # the other GPUs are still to come
        ([], 8, 12, True, 0.125),
    ],
)
def test_workers_reserve_no_more_cores_than_have_room_on_the_nodes(nodes, count, most, gpu, cores):
    assert cores_each([NodeSize(*node) for node in nodes], count, most, gpu) == cores
