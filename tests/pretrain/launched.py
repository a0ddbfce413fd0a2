"""One worker of a test: `torch.distributed.run … launched.py TRAININGS.json` trains them one after another.

Beside what a training leaves, each worker writes `rank<r>.json`: the keys of the studies of each step.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vetdino.platform.core.config import from_json, to_json
from vetdino.platform.core.errors import VetdinoError
from vetdino.platform.training.cluster import Place
from vetdino.pretrain import loop
from vetdino.pretrain.batches.crops import seed_of
from vetdino.pretrain.distillation.distiller import Distiller
from vetdino.pretrain.recipes import PretrainConfig


class BrokenOffError(Exception):
    """The training was broken off where the test asked for it."""


def work(config: PretrainConfig, stop: int | None, poison: list[int], place: Place) -> None:
    """Train; `failure.txt` holds what a person would be told where it could not go on.

    poison: steps whose loss becomes no number, whatever the batch.
    """
    if place.rank == 0:
        config.out.mkdir(parents=True, exist_ok=True)
        (config.out / "config.json").write_text(to_json(config))
    seen: list[tuple[str, ...]] = []
    loader_of = loop.loader_of

    def noted(dataset, order, **how):
        for batch in loader_of(dataset, order, **how):
            seen.append(batch.keys)
            yield batch

    def report(step: int, values: object) -> None:
        if stop is not None and step > stop:
            raise BrokenOffError

    losses = Distiller.losses

    def poisoned(self, student, batch, question):
        found = losses(self, student, batch, question)
        ill = any(seed_of(config.seed, step, "part 0") == question.seed for step in poison)
        return replace(found, total=found.total * float("nan")) if ill else found

    loop.loader_of, Distiller.losses = noted, poisoned
    try:
        loop.train(config, place, report)
    except BrokenOffError:
        pass
    except VetdinoError as error:
        (config.out / "failure.txt").write_text(f"{type(error).__name__}: {error}")
    finally:
        loop.loader_of, Distiller.losses = loader_of, losses
    (config.out / f"rank{place.rank}.json").write_text(json.dumps(seen))


def main(told: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    place = Place(dist.get_rank(), dist.get_world_size(), torch.device("cpu"))
    for text, stop, poison in json.loads(told.read_text()):
        work(from_json(PretrainConfig, text), stop, poison, place)
    dist.barrier()
    dist.destroy_process_group()
    # All is on the disk. On its way out a native thread of PyTorch's has aborted the process before, once in many.
    os._exit(0)


if __name__ == "__main__":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    main(Path(sys.argv[1]))
