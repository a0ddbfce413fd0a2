"""Trains on workers that it forks: a line of JSON in, `ok` or an error out (see `launched` in conftest.py).

Besides the training's own files each worker writes `rank<r>.json`: the keys of the studies of each step.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vetdino.platform.core.config import from_json, to_json
from vetdino.platform.core.errors import VetdinoError
from vetdino.platform.training.cluster import WorkerContext
from vetdino.pretrain import build, loop
from vetdino.pretrain.batches.seeds import derived_seed
from vetdino.pretrain.checkpoints import is_distillation
from vetdino.pretrain.config import FeatureDistillationConfig, PretrainConfig, TrainingConfig
from vetdino.pretrain.distillation.deepspeed_adapter import prepare_deepspeed
from vetdino.pretrain.distillation.distiller import Distiller
from vetdino.pretrain.run_storage import run_folder


class StoppedError(Exception):
    """The training was stopped after the step that the test chose."""


def work(config: TrainingConfig, stop: int | None, poison: list[int], worker: WorkerContext) -> None:
    """Train; `failure.txt` gets the message of an error that is meant for people.

    stop: step after which the training is stopped from outside. poison: steps whose loss becomes NaN.
    """
    out = run_folder(config)
    out.mkdir(parents=True, exist_ok=True)
    if worker.rank == 0:
        (out / "config.json").write_text(to_json(config))
    seen: list[tuple[str, ...]] = []
    crop_loader = build.crop_loader

    def noted(dataset, sampler, *arguments, **settings):
        for batch in crop_loader(dataset, sampler, *arguments, **settings):
            seen.append(batch.keys)
            yield batch

    def report(step: int, values: object) -> None:
        if stop is not None and step > stop:
            raise StoppedError

    losses = Distiller.losses

    def poisoned(self, student, batch, targets):
        computed = losses(self, student, batch, targets)
        ill = any(derived_seed(config.seed, step, "part 0") == targets.seed for step in poison)
        return replace(computed, total=computed.total * float("nan")) if ill else computed

    build.crop_loader, Distiller.losses = noted, poisoned
    try:
        loop.train(config, worker, report)
    except StoppedError:
        pass
    except VetdinoError as error:
        (out / "failure.txt").write_text(f"{type(error).__name__}: {error}")
    finally:
        build.crop_loader, Distiller.losses = crop_loader, losses
    (out / f"rank{worker.rank}.json").write_text(json.dumps(seen))


def run_worker(order: dict[str, Any], rank: int, store: str) -> None:
    """One forked worker: joins the process group and trains one training after another."""
    world = order["workers"]
    if order.get("machines"):  # each worker as on a machine of its own
        os.environ["VETDINO_CACHE"] += f"/machine{rank}"
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    dist.init_process_group("gloo", store=dist.FileStore(store, world), rank=rank, world_size=world)
    worker = WorkerContext(rank, world, torch.device("cpu"))
    if order.get("notice") is not None and rank == world - 1:
        steps = itertools.count(1)
        worker = replace(worker, preempted=lambda: int(next(steps) >= order["notice"]))
    for text, stop, poison in order["trainings"]:
        kind = FeatureDistillationConfig if is_distillation(text) else PretrainConfig
        work(from_json(kind, text), stop, poison, worker)
    dist.barrier()
    # All is on the disk. On its way out a native thread of PyTorch's has aborted the process before, once in many.
    os._exit(0)


def fork_workers(order: dict[str, Any]) -> str:
    """Run the trainings of one order on freshly forked workers; `ok`, or what went wrong."""
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            fork.Process(target=run_worker, args=(order, rank, f"{folder}/store"))
            for rank in range(order["workers"])
        ]
        for process in workers:
            process.start()
        deadline = time.monotonic() + order["seconds"]
        while any(process.is_alive() for process in workers):
            time.sleep(0.05)
            failed = [process.exitcode for process in workers if process.exitcode]
            if failed or time.monotonic() > deadline:
                for process in workers:
                    process.kill()
                return f"exit codes {failed}" if failed else "not done in time"
        return "ok"


def main() -> None:
    torch.set_num_threads(1)
    prepare_deepspeed(torch.device("cpu"))
    # What the workers need is imported before they are forked, once for all trainings.
    import deepspeed.runtime.zero.stage3  # noqa: F401
    from torch._inductor import compile_fx  # noqa: F401

    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints does so to the log
    for line in sys.stdin:
        print(fork_workers(json.loads(line)), file=replies, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    main()
