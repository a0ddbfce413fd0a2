"""Who does the work: worker processes of this machine, or of every node of a Ray cluster; the same functions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ..core.errors import DataError, VetdinoError
from ..core.extras import require_extra
from ..dicom.burned_in import can_search
from ..training.cluster import ray_connection, ray_is_running
from .decoding import DecodePool
from .pseudonyms import load_secret
from .ranges import Job

Report = Callable[[int, int], None]
"""Called with how many files were read, and how many were taken from an earlier attempt."""

Function = Callable[[Job, DecodePool, Any, Report], dict[str, Any]]
"""What a node does with a task: `scan_block`, or `write_range`."""


class Team(Protocol):
    """Does tasks; the output does not depend on who they are."""

    def run(
        self, function: Function, tasks: Iterable[Any], report: Report
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Each task with its result, in the order in which they finish; tasks are taken as they are needed."""


def open_team(job: Job, secret: Path, on_stage: Callable[[str], None]) -> AbstractContextManager[Team]:
    """All nodes of the Ray that runs (`RAY_ADDRESS`, or inside `ray job submit`), else this machine alone.

    secret: the file of the secret, which every node reads itself. on_stage: called with what is waited for.
    """
    if ray_is_running():
        return _ray_team(job, secret, on_stage)
    return _local_team(job)


@contextmanager
def _local_team(job: Job) -> Iterator[Team]:
    with DecodePool(job.root, job.secret, job.config) as pool:
        yield _LocalTeam(job, pool)


class _LocalTeam:
    def __init__(self, job: Job, pool: DecodePool) -> None:
        self._job, self._pool = job, pool

    def run(
        self, function: Function, tasks: Iterable[Any], report: Report
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        for task in tasks:
            yield task, function(self._job, self._pool, task, report)


@contextmanager
def _ray_team(job: Job, secret: Path, on_stage: Callable[[str], None]) -> Iterator[Team]:
    require_extra("ray", "ingest on a cluster")
    with ray_connection(on_stage):
        yield _RayTeam(job, secret, on_stage)


class _Node:
    """The worker processes of one node; an actor, because starting them takes longer than a block of headers."""

    def __init__(self, job: Job, secret: Path, mark: str) -> None:
        self._job, self._secret, self._mark = job, secret, mark

    def ready(self) -> str:
        """Why this node cannot take part; empty where it can."""
        import socket

        host = socket.gethostname()
        shared = "archive, output and secret must be on a disk that all nodes share, or a URL"
        if not (self._job.work / self._mark).exists():
            return f"{self._job.work.parent} is another folder on {host}; {shared}"
        if isinstance(self._job.root, Path) and not self._job.root.exists():
            return f"{self._job.root} is not there on {host}; {shared}"
        if not self._secret.exists():
            return f"{self._secret} is not there on {host}; {shared}"
        if self._job.config.dicom.search_text != "none" and not can_search():
            return f"{host} lacks the extra that searches pixels for text: pip install 'vetdino[ocr]' on every node"
        self._job = replace(self._job, secret=load_secret(self._secret))
        self._pool = DecodePool(self._job.root, self._job.secret, self._job.config)
        return ""

    def do(self, function: Function, task: Any) -> tuple[dict[str, Any], int, int] | VetdinoError | OSError:
        """The result of a task, how many files were read, and how many taken from an earlier attempt."""
        read = reused = 0

        def count(files: int, known: int) -> None:
            nonlocal read, reused
            read, reused = read + files, reused + known

        try:
            return function(self._job, self._pool, task, count), read, reused
        except (VetdinoError, OSError) as error:
            self._pool.close()
            return error


class _RayTeam:
    def __init__(self, job: Job, secret: Path, on_stage: Callable[[str], None]) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        mark = f"visible-{os.getpid()}-{time.time_ns()}"
        (job.work / mark).touch()
        actor = ray.remote(_Node)
        self._nodes: list[Any] = []
        self._busy: dict[Any, tuple[Any, Any]] = {}
        """Reference of a result -> (node, task); the task is None while the node starts."""
        shared = replace(job, secret=b"")
        for node in ray.nodes():
            cores = int(node["Resources"].get("CPU", 0)) if node["Alive"] else 0
            if cores:
                workers = min(job.config.workers or cores, cores)
                theirs = replace(shared, config=replace(job.config, workers=workers))
                place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                handle: Any = actor.options(num_cpus=workers, scheduling_strategy=place).remote(
                    theirs, secret, mark
                )
                self._busy[handle.ready.remote()] = (handle, None)
        on_stage(f"waiting for {len(self._busy)} nodes")
        self._idle: list[Any] = []
        while not self._idle:
            self._wait(lambda read, reused: None, {})
        on_stage("")

    def run(
        self, function: Function, tasks: Iterable[Any], report: Report
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        queue, again = iter(tasks), list[Any]()
        while True:
            while self._idle and (task := again.pop() if again else next(queue, None)) is not None:
                node = self._idle.pop()
                self._busy[node.do.remote(function, task)] = (node, task)
            if not again and not any(task is not None for _, task in self._busy.values()):
                return
            finished: dict[str, Any] = {}
            self._wait(report, finished, again)
            if finished:
                yield finished["task"], finished["result"]

    def _wait(self, report: Report, finished: dict[str, Any], again: list[Any] | None = None) -> None:
        """Waits for one answer: of a node that is ready, or of a task, which goes to `finished`.

        The task of a node that was lost goes to `again`. Raises the error of a task, DataError where no node is left.
        """
        import ray

        [reference], _ = ray.wait(list(self._busy), num_returns=1)
        node, task = self._busy.pop(reference)
        try:
            answer = ray.get(reference)
        except ray.exceptions.RayActorError:
            if task is not None and again is not None:
                again.append(task)
            if not self._busy and not self._idle:
                raise DataError(
                    "all nodes of the Ray cluster are lost; run the command again to continue"
                ) from None
            return
        if isinstance(answer, Exception):
            raise answer
        if task is not None:
            result, read, reused = answer
            finished.update(task=task, result=result)
            report(read, reused)
        elif answer:
            raise DataError(str(answer))
        self._idle.append(node)
