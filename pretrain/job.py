"""The training as a Ray Train job: workers are asked for, watched, and started anew when one is lost."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..platform import checkpoint
from ..platform.config import atomic_write, from_json, to_json
from ..platform.errors import ConfigError, TrainingError, VetdinoError
from ..platform.progress import Progress
from ..platform.runs import create_database, tracking_address
from ..platform.shards import load_manifest
from .loop import STATUS, Place, check_checkpoint, checkpoints_of, train
from .recipes import PretrainConfig
from .start import start_of

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

FAILURE = "failure.txt"
"""Left in the run's folder by a worker that met an error meant for people."""


def pretrain(config: PretrainConfig) -> Path:
    """Train on Ray to the last step; the folder of the exported backbone.

    A Ray that already runs is used (`RAY_ADDRESS`, or inside `ray job submit`), else one is started here and
    stopped afterwards. Raises ConfigError before any worker is asked for where settings quarrel or `out` holds
    another training; TrainingError where the workers failed more often than `restarts` allows.
    """
    config.check()
    config = replace(
        config, shards=_absolute(config.shards), out=config.out.resolve(), start=_start(config.start)
    )
    manifest = load_manifest(config.shards)
    if manifest.studies("train") < config.batch:
        raise ConfigError(
            f"batch {config.batch} is more than the {manifest.studies('train')} training studies; lower it"
        )
    _claim(config)
    create_database(tracking_address(config.out))
    (config.out / FAILURE).unlink(missing_ok=True)
    with _Watch(config):
        _run_on_ray(config)
    if (config.out / FAILURE).exists():
        raise TrainingError((config.out / FAILURE).read_text())
    return config.out / "backbone"


def _run_on_ray(config: PretrainConfig) -> None:
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    ours = not ray.is_initialized()
    try:
        if ours:
            _start_ray()
        _wait_for(_trainer(config).fit)
    except VetdinoError:
        raise
    except Exception as error:
        raise _human(config, error) from error
    finally:
        if ours:
            ray.shutdown()


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


def _trainer(config: PretrainConfig) -> TorchTrainer:
    """Raises ConfigError where the workers need GPUs that a Ray of this machine alone has not."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    there = ray.cluster_resources()
    cores, gpus = int(there.get("CPU", 1)), int(there.get("GPU", 0))
    cuda = config.device == "cuda" or (config.device == "auto" and gpus > 0)
    fewest = config.min_workers or config.workers
    if cuda and gpus < fewest and "RAY_ADDRESS" not in os.environ:
        raise ConfigError(
            f"workers {fewest} with device {config.device} need a GPU each, here are {gpus}; "
            "lower --workers, or set --device cpu"
        )
    threads = config.threads or max(1, cores // config.workers)
    # More workers than cores share them; whole cores would be waited for without end.
    needs = {"CPU": min(threads, cores / config.workers), **({"GPU": 1} if cuda else {})}
    return TorchTrainer(
        _work,
        train_loop_config={"config": to_json(config), "threads": threads, "cuda": cuda},
        scaling_config=ScalingConfig(num_workers=_workers(config), use_gpu=cuda, resources_per_worker=needs),
        torch_config=TorchConfig(backend="nccl" if cuda else "gloo"),
        run_config=RunConfig(
            name=f"launch_{time.time_ns()}",
            storage_path=str(config.out / "ray"),
            failure_config=FailureConfig(max_failures=config.restarts),
        ),
    )


def _workers(config: PretrainConfig) -> int | tuple[int, int]:
    """How many workers Ray is asked for: so many, or as many as there are within limits."""
    return (config.min_workers, config.workers) if config.min_workers else config.workers


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


def _work(told: Mapping[str, object]) -> None:
    """What each Ray worker runs."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    config = from_json(PretrainConfig, str(told["config"]))
    if (config.out / FAILURE).exists():
        return  # Ray starts the workers anew after any error; one meant for people would only come again
    torch.set_num_threads(int(told["threads"]))
    context = ray.train.get_context()
    device = get_device() if told["cuda"] else torch.device("cpu")
    place = Place(rank=context.get_world_rank(), world=context.get_world_size(), device=device)
    try:
        train(config, place)
    except VetdinoError as error:
        atomic_write(config.out / FAILURE, str(error))
        raise


def _claim(config: PretrainConfig) -> None:
    """Make the run's folder ours, or refuse one that holds another training."""
    root = checkpoints_of(config)
    newest = checkpoint.newest(root)
    if config.resume and newest is None:
        raise ConfigError(f"{config.out}: holds no whole checkpoint to resume from; leave out --resume")
    if not config.resume and any(root.glob("step_*")):
        raise ConfigError(
            f"{config.out}: holds a training already; add --resume to go on, or choose another --out"
        )
    if newest is not None:
        check_checkpoint(config, newest)
    else:
        start_of(config)  # a name that is unknown or weights that do not fit are told at once
        # The record of a training that was stopped before its first checkpoint.
        for name in (STATUS, "metrics.jsonl", "run.json"):
            (config.out / name).unlink(missing_ok=True)
    atomic_write(config.out / "config.json", to_json(config))


def _human(config: PretrainConfig, error: Exception) -> VetdinoError:
    told = config.out / FAILURE
    if told.exists():
        return TrainingError(told.read_text())
    lines = str(error).strip().splitlines() or [type(error).__name__]
    kept = any(checkpoints_of(config).glob("step_*"))
    return TrainingError(
        f"the workers failed more than {config.restarts} times ({lines[-1]}); "
        + (
            f"{config.out} holds a checkpoint: run again with --resume"
            if kept
            else "run the same command again"
        )
    )


def _absolute(path: Path) -> Path:
    return path if "://" in str(path) else path.resolve()


def _start(start: str) -> str:
    return str(Path(start).resolve()) if start and Path(start).exists() else start


class _Watch:
    """Shows what the first worker tells in its status file, from a thread of the driver."""

    def __init__(self, config: PretrainConfig) -> None:
        self.status, self.steps, self.batch = config.out / STATUS, config.steps, config.batch
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def _watch(self) -> None:
        began = self._told().get("step", 0)
        seen, notes, warned = began, {}, set()
        with Progress("pretrain", total=(self.steps - began) * self.batch, unit="studies") as progress:
            while True:
                ended = self.ended.wait(0.5)
                told = self._told()
                names = {
                    "loss/total": "loss",
                    "probe/auroc_macro": "auroc",
                    "health/teacher_entropy": "entropy",
                }
                notes |= {
                    short: round(told[name], 3) for name, short in names.items() if told.get(name) is not None
                }
                for text in told.get("warnings", ()):
                    if text not in warned:
                        print(f"vetdino: warning: {text}", file=sys.stderr, flush=True)
                        warned.add(text)
                now = max(seen, told.get("step", seen))
                progress.advance((now - seen) * self.batch, **notes)
                seen = now
                if ended:
                    return

    def _told(self) -> dict[str, Any]:
        try:
            return json.loads(self.status.read_text())
        except (OSError, ValueError):
            return {}
