"""Ray Train in one place: a Ray is found or started, workers are asked for and watched, Ctrl-C ends them.

Each worker runs one function. What it tells on the way goes through a file, and so does an error that is meant
for people: Ray would start the workers anew after any error, and bring back a text of its own.
"""

from __future__ import annotations

import ctypes
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..core.config import atomic_write
from ..core.errors import ConfigError, TrainingError, VetdinoError

if TYPE_CHECKING:
    import torch
    from ray.train.torch import TorchTrainer

FAILURE = "failure.txt"
"""Left in the job's folder by a worker that met an error meant for people."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one worker stands among all."""

    rank: int
    world: int
    device: torch.device

    def wait(self) -> None:
        """Until all workers are here."""
        if self.world > 1:
            import torch.distributed as dist

            dist.barrier()


@dataclass(frozen=True, kw_only=True, slots=True)
class Crew:
    """Which workers Ray is asked for."""

    workers: int = 1
    """So many; each has one GPU where `device` is cuda."""
    min_workers: int = 0
    """Fewer will do for a while, down to this; 0 waits for all."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where the cluster has GPUs."""
    threads: int = 0
    """CPU threads a worker; 0 divides the machine's cores among them."""
    restarts: int = 0
    """How often the workers are started anew after one was lost."""


Work = Callable[[Any, Place], None]
"""What each worker does with what it is told; a function of a module, so that the workers find it."""


def run_on_ray(work: Work, told: Any, crew: Crew, folder: Path, advice: Callable[[], str]) -> None:
    """Have all workers do it, on a Ray that already runs (`RAY_ADDRESS`, or inside `ray job submit`), else on one
    started here and stopped afterwards.

    folder: absolute, on storage that all workers share. advice: what a person shall do when workers are lost.
    Raises ConfigError where the workers need GPUs that a Ray of this machine alone has not; TrainingError with
    the words of a worker's error, where Ray does not start, or workers failed more often than `restarts` allows.
    """
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray's own choice, 15, has workers starve beside anything else that the machine does.
    os.environ.setdefault("RAY_worker_niceness", "0")
    import ray

    failure = folder / FAILURE
    failure.unlink(missing_ok=True)
    ours = not ray.is_initialized()
    try:
        if ours:
            _start_ray()
        _wait_for(_trainer(work, told, crew, folder).fit)
    except VetdinoError:
        raise
    except Exception as error:
        raise _human(error, crew, failure, advice) from error
    finally:
        if ours:
            ray.shutdown()
    if failure.exists():
        raise TrainingError(failure.read_text())


@contextmanager
def watched(status: Path, tell: Callable[[Mapping[str, Any]], None]) -> Iterator[None]:
    """Meanwhile `tell`, in a thread, what a worker writes into its status file, every half second and at the end."""
    ended = threading.Event()

    def watch() -> None:
        while True:
            last = ended.wait(0.5)
            tell(told_in(status))
            if last:
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def told_in(status: Path) -> dict[str, Any]:
    """What a status file says; nothing where there is none yet."""
    try:
        return json.loads(status.read_text())
    except (OSError, ValueError):
        return {}


def _start_ray() -> None:
    """A Ray of our own, or the one at RAY_ADDRESS. Raises TrainingError where it does not start."""
    import ray

    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
    except Exception as error:
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise TrainingError(
            f"Ray did not start ({first}); run the same command again when the machine is less busy"
        ) from error


def _trainer(work: Work, told: Any, crew: Crew, folder: Path) -> TorchTrainer:
    """Raises ConfigError where the workers need GPUs that a Ray of this machine alone has not."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    there = ray.cluster_resources()
    cores, gpus = int(there.get("CPU", 1)), int(there.get("GPU", 0))
    cuda = crew.device == "cuda" or (crew.device == "auto" and gpus > 0)
    fewest = crew.min_workers or crew.workers
    if cuda and gpus < fewest and "RAY_ADDRESS" not in os.environ:
        raise ConfigError(
            f"workers {fewest} with device {crew.device} need a GPU each, here are {gpus}; lower --workers, or set "
            "--device cpu"
        )
    threads = crew.threads or max(1, cores // crew.workers)
    # More workers than cores share them; whole cores would be waited for without end.
    needs = {"CPU": min(threads, cores / crew.workers), **({"GPU": 1} if cuda else {})}
    wanted = (crew.min_workers, crew.workers) if crew.min_workers else crew.workers
    return TorchTrainer(
        _work,
        train_loop_config={"work": work, "told": told, "folder": folder, "threads": threads, "cuda": cuda},
        scaling_config=ScalingConfig(num_workers=wanted, use_gpu=cuda, resources_per_worker=needs),
        torch_config=TorchConfig(backend="nccl" if cuda else "gloo"),
        run_config=RunConfig(
            name=f"launch_{time.time_ns()}",
            storage_path=str(folder / "ray"),
            failure_config=FailureConfig(max_failures=crew.restarts),
        ),
    )


def _wait_for(fit: Callable[[], object]) -> None:
    """Run it in a thread of its own: in the main thread Ray Train takes Ctrl-C for itself and exits with 1."""
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
    except KeyboardInterrupt:
        # Ray ends the whole process where a thread still asks it something after its shutdown.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
        raise
    if failures:
        raise failures[0]


def _work(job: Mapping[str, Any]) -> None:
    """What each Ray worker runs."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    failure = job["folder"] / FAILURE
    if failure.exists():
        return  # Ray starts the workers anew after any error; one meant for people would only come again
    torch.set_num_threads(job["threads"])
    context = ray.train.get_context()
    device = get_device() if job["cuda"] else torch.device("cpu")
    try:
        job["work"](job["told"], Place(context.get_world_rank(), context.get_world_size(), device))
    except VetdinoError as error:
        atomic_write(failure, str(error))
        raise


def _human(error: Exception, crew: Crew, failure: Path, advice: Callable[[], str]) -> VetdinoError:
    if failure.exists():
        return TrainingError(failure.read_text())
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return TrainingError(f"the workers failed more than {crew.restarts} times ({lines[-1]}); {advice()}")
