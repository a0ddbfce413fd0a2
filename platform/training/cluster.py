"""One function on all workers of Ray Train: connects to a Ray or starts one, follows the workers, ends them on Ctrl-C.

A worker reports its progress through a file, and an error for the user, too: Ray would restart the workers after any
error and return a text of its own.
"""

from __future__ import annotations

import ctypes
import json
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..core.device import DeviceChoice
from ..core.errors import ConfigError, TrainingError, VetdinoError
from ..core.extras import require_extra
from ..core.files import atomic_write
from ..core.location import Location
from ..core.log_lines import warn
from ..core.storage import filesystem, read_bytes, remove, write_bytes

if TYPE_CHECKING:
    import torch
    from ray.train.torch import TorchTrainer

FAILURE = "failure.txt"
"""In the job's folder: the message of a `VetdinoError` that a worker raised."""

LAST_SECONDS = 5.0
"""How long Ray's processes may take to end by themselves."""


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """One worker among all, and its device."""

    rank: int
    world_size: int
    device: torch.device
    preempted: Callable[[], int] = lambda: 0
    """How many of the workers' machines this worker knows to be taken away soon."""

    def barrier(self) -> None:
        """Wait until all workers have come here."""
        if self.world_size > 1:
            import torch.distributed as dist

            dist.barrier()


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfig:
    """Which workers Ray starts."""

    workers: int = 1
    """How many; each has one GPU where `device` is cuda."""
    min_workers: int = 0
    """Training goes on with fewer while some are missing, down to this number; 0 waits for all."""
    device: DeviceChoice = "auto"
    """auto takes CUDA where the cluster has GPUs."""
    threads: int = 0
    """CPU threads of a worker; 0 divides the machine's cores among them."""
    restarts: int = 0
    """How often the workers are restarted after one was lost."""


STAGE = "stage"
"""In a worker's status file: what it does while nothing can be counted yet."""

WorkerFunction = Callable[[Any, WorkerContext], None]
"""What each worker runs with the argument; a top-level function of a module, so that the workers can import it."""


def run_on_ray(
    function: WorkerFunction,
    argument: Any,
    config: WorkerConfig,
    folder: Path | Location,
    advice: Callable[[], str],
    on_stage: Callable[[str], None] = lambda text: None,
) -> None:
    """Run a function on all workers, on a Ray that already runs (`RAY_ADDRESS`, or inside `ray job submit`), else on
    one that is started here and stopped afterwards.

    folder: absolute, on storage that all workers share, or a URL. advice: returns what a person shall do when workers
    were lost. on_stage: called with what is waited for. Raises ConfigError where Ray is not installed or the workers
    need GPUs that a Ray of this machine alone has not; TrainingError with the message of a worker's `VetdinoError`,
    where Ray does not start, or where workers failed more often than `restarts` allows.
    """
    require_extra("ray", "training on workers")
    failure = Location(folder) / FAILURE
    remove(failure, [""])
    with ray_connection(on_stage):
        try:
            on_stage(f"starting {config.workers} worker{'s' * (config.workers > 1)}")
            _run_in_thread(_trainer(function, argument, config, folder).fit)
        except VetdinoError:
            raise
        except Exception as error:
            raise _training_error(error, config, failure, advice) from error
    if (message := read_bytes(failure)) is not None:
        raise TrainingError(message.decode())


@contextmanager
def watch_status(status: Path, report: Callable[[Mapping[str, Any]], None]) -> Iterator[None]:
    """Within the `with` block, a thread calls `report` with a worker's status file every half second and at the end."""
    ended = threading.Event()

    def watch() -> None:
        while True:
            last = ended.wait(0.5)
            report(read_status(status))
            if last:
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def read_status(status: Path) -> dict[str, Any]:
    """Content of a status file; {} where it is missing or not whole yet."""
    try:
        return json.loads(status.read_text())
    except (OSError, ValueError):
        return {}


def report_stage(status: Path, worker: WorkerContext, stage: str) -> None:
    """Add to a status file what the workers do now, from the first of them; "" and the next record remove it."""
    if worker.rank == 0:
        content = {name: value for name, value in read_status(status).items() if name != STAGE}
        atomic_write(status, json.dumps(content | ({STAGE: stage} if stage else {})))


def report_warning(status: Path, worker: WorkerContext, text: str) -> None:
    """Add a warning to a status file, from the first worker; a record written later must bring it along."""
    if worker.rank == 0:
        content = read_status(status)
        content["warnings"] = [*content.get("warnings", ()), text]
        atomic_write(status, json.dumps(content))


def warn_of_missing_gpus(device: DeviceChoice, gpus: int) -> None:
    """Warn where `auto` means the CPU only because a Ray that starts machines on demand has none with a GPU yet."""
    if device == "auto" and not gpus and "RAY_ADDRESS" in os.environ:
        warn(
            "no machine of this Ray has a GPU now, so device auto takes the CPU; where machines with GPUs are started "
            "on demand, stop this and give --device cuda"
        )


@contextmanager
def ray_connection(on_stage: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Within the `with` block this process uses a Ray: that which runs (see `ray_is_running`), else one of this
    machine alone, which is stopped afterwards.

    on_stage: called with what is waited for. Raises TrainingError where it does not start.
    """
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # With Ray's default, 15, workers starve beside anything else that the machine does.
    os.environ.setdefault("RAY_worker_niceness", "0")
    import ray

    started_here = not ray.is_initialized()
    try:
        if started_here:
            on_stage("starting Ray")
            start_ray()
        yield
    finally:
        if started_here:
            _stop_ray()


def _stop_ray() -> None:
    """Disconnect from Ray; of one that this process started, no process stays.

    Now and then one of Ray 2.60's processes sleeps in its own destructors for ever; it has nothing left to do.
    """
    import psutil
    import ray

    of_ray: list[psutil.Process] = []
    with suppress(psutil.Error):
        raylets = [child for child in psutil.Process().children() if child.name() == "raylet"]
        of_ray = [process for raylet in raylets for process in raylet.children(recursive=True)]
    ray.shutdown()
    for process in psutil.wait_procs(of_ray, timeout=LAST_SECONDS)[1]:
        with suppress(psutil.Error):
            process.kill()


def ray_is_running() -> bool:
    """Whether there is a Ray to use: RAY_ADDRESS names one, as inside `ray job submit`, or this process has one."""
    ray = sys.modules.get("ray")
    return bool(os.environ.get("RAY_ADDRESS")) or (ray is not None and ray.is_initialized())


def start_ray() -> None:
    """Connect to the Ray at RAY_ADDRESS or the one that `ray start` started here, else start one. Raises
    TrainingError where that fails, ConfigError where RAY_ADDRESS is one that takes jobs only."""
    import ray

    if (address := os.environ.get("RAY_ADDRESS", "")).startswith(("http://", "https://")):
        raise ConfigError(
            f"RAY_ADDRESS={address} takes whole jobs: `vetdino submit COMMAND …` runs the command there; unset "
            "RAY_ADDRESS to run it here"
        )
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            "local" if _noted_ray_is_gone() else None,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray has put its own in place, which prints and aborts
    except Exception as error:
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise TrainingError(
            f"Ray did not start ({first}); run the same command again when the machine is less busy"
        ) from error


def _noted_ray_is_gone() -> bool:
    """Whether the Ray that `ray start` noted as this machine's does not answer; Ray itself would wait for it."""
    from ray._private.utils import read_ray_address

    noted = None if os.environ.get("RAY_ADDRESS") else read_ray_address()
    if not noted:
        return False
    host, _, port = noted.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), 5.0).close()
    except (OSError, ValueError):
        warn(f"the Ray that was started here at {noted} does not answer; another one is started")
        return True
    return False


@dataclass(frozen=True, slots=True)
class NodeSize:
    """What a node of Ray has."""

    cores: int
    gpus: int


def ray_nodes() -> list[NodeSize]:
    """The nodes of the connected Ray that have cores."""
    import ray

    sizes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [NodeSize(int(size.get("CPU", 0)), int(size.get("GPU", 0))) for size in sizes]
    return [node for node in nodes if node.cores]


def cores_each(nodes: Sequence[NodeSize], count: int, most: int, gpu: bool = False) -> float:
    """Cores to reserve for each of `count` workers, `most` or fewer, so that all have room on these nodes at once.

    A fraction where they share cores. Ray would wait without end for what no node has: four workers of 2 cores have
    no room on nodes of 3, 3 and 3. gpu: whether each takes a GPU, too.

    >>> pair = [NodeSize(3, 0), NodeSize(3, 0)]
    >>> cores_each(pair, 2, 4), cores_each(pair, 3, 2), cores_each(pair, 12, 1)
    (3, 1, 0.5)
    """
    able = [node for node in nodes if node.gpus or not gpu] or [NodeSize(1, count)]
    for cores in range(most, 0, -1):
        rooms = [node.cores // cores for node in able]
        if gpu:
            rooms = [min(room, node.gpus) for room, node in zip(rooms, able, strict=True)]
        if sum(rooms) >= count:
            return cores
    return 1 / math.ceil(count / sum(node.cores for node in able))


def _trainer(
    function: WorkerFunction, argument: Any, config: WorkerConfig, folder: Path | Location
) -> TorchTrainer:
    """Raises ConfigError where the workers need GPUs that a Ray of this machine alone has not."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    nodes = ray_nodes()
    gpus = sum(node.gpus for node in nodes)
    warn_of_missing_gpus(config.device, gpus)
    cuda = config.device == "cuda" or (config.device == "auto" and gpus > 0)
    fewest = config.min_workers or config.workers
    if cuda and gpus < fewest and "RAY_ADDRESS" not in os.environ:
        raise ConfigError(
            f"workers {fewest} with device {config.device} need a GPU each, here are {gpus}; lower --workers, or set "
            "--device cpu"
        )
    share = max(1, sum(node.cores for node in nodes) // config.workers)
    threads = config.threads or max(1, int(cores_each(nodes, config.workers, share, cuda)))
    per_worker = {"CPU": cores_each(nodes, config.workers, threads, cuda), **({"GPU": 1} if cuda else {})}
    files, place = _ray_storage(Location(folder) / "ray")
    # Ray takes (fewest, most) for elastic training, which its annotation leaves out.
    number = cast(int, (config.min_workers, config.workers) if config.min_workers else config.workers)
    return TorchTrainer(
        _worker,
        train_loop_config={
            "function": function,
            "argument": argument,
            "folder": folder,
            "threads": threads,
            "cuda": cuda,
        },
        scaling_config=ScalingConfig(num_workers=number, use_gpu=cuda, resources_per_worker=per_worker),
        torch_config=TorchConfig(backend="nccl" if cuda else "gloo"),
        run_config=RunConfig(
            name=f"launch_{time.time_ns()}",
            storage_path=place,
            storage_filesystem=files,
            failure_config=FailureConfig(max_failures=config.restarts),
        ),
    )


def _ray_storage(location: Location) -> tuple[Any, str]:
    """What Ray keeps its notes with, and where. Not Ray's own way to a URL, which knows other variables than ours."""
    if location.is_local:
        return None, str(location.path)
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    files, path = filesystem(location)
    return PyFileSystem(FSSpecHandler(files)), path


def _run_in_thread(fit: Callable[[], object]) -> None:
    """Run `fit` to its end in another thread: in the main thread Ray Train handles Ctrl-C itself and exits with 1."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            fit()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.5)
    except (KeyboardInterrupt, SystemExit):  # Ray's handler of SIGTERM raises the latter
        # A thread that still calls Ray after its shutdown would end the whole process.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(cast(int, thread.ident)), ctypes.py_object(SystemExit)
        )
        raise
    if failures:
        raise failures[0]


def _worker(job: Mapping[str, Any]) -> None:
    """What each Ray worker runs."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    failure = Location(job["folder"]) / FAILURE
    if read_bytes(failure) is not None:
        return  # Ray restarts the workers after any error; this one would only come again
    torch.set_num_threads(job["threads"])
    context = ray.train.get_context()
    device = get_device() if job["cuda"] else torch.device("cpu")
    try:
        worker = WorkerContext(
            context.get_world_rank(), context.get_world_size(), device, _preempted_machines
        )
        job["function"](job["argument"], worker)
    except VetdinoError as error:
        write_bytes(failure, str(error).encode())
        raise


def _preempted_machines() -> int:
    """How many of the workers' machines Ray drains, as before a spot machine is taken away."""
    # Not `ray.train.get_preemption_info`, which makes all workers wait for each other in an actor, at every step.
    from ray.train.v2._internal.execution.context import get_train_context

    notice = get_train_context().preemption_context.preemption_info
    return len(notice.preempted_node_ids) if notice is not None else 0


def _training_error(
    error: Exception, config: WorkerConfig, failure: Location, advice: Callable[[], str]
) -> TrainingError:
    """The message that a worker left, else the last line of Ray's error and what to do."""
    if (message := read_bytes(failure)) is not None:
        return TrainingError(message.decode())
    text = str(error).strip()
    reason = (text.splitlines() or [type(error).__name__])[-1]
    if "out of memory" in text.lower():  # Ray's last line is then a page of advice about Ray
        reason = "Ray ended a worker because the machine's memory was full; free some or lower the batch"
    return TrainingError(f"the workers failed more than {config.restarts} times ({reason}); {advice()}")
