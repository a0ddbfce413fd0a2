"""One worker of a test: `torch.distributed.run … launched.py TRAININGS.json` trains them one after another.

Beside what a training leaves, each worker writes `rank<r>.json`: the keys of the studies of each step.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vetdino.platform.config import from_json
from vetdino.platform.errors import VetdinoError
from vetdino.pretrain import loop
from vetdino.pretrain.recipes import PretrainConfig


class BrokenOffError(Exception):
    """The training was broken off where the test asked for it."""


def work(config: PretrainConfig, stop: int | None, place: loop.Place) -> None:
    """Train; `failure.txt` holds what a person would be told where it could not go on."""
    seen: list[tuple[str, ...]] = []
    loader_of = loop.loader_of

    def noted(dataset, order, **how):
        for batch in loader_of(dataset, order, **how):
            seen.append(batch.keys)
            yield batch

    def report(step: int, values: object) -> None:
        if stop is not None and step > stop:
            raise BrokenOffError

    loop.loader_of = noted
    try:
        loop.train(config, place, report)
    except BrokenOffError:
        pass
    except VetdinoError as error:
        (config.out / "failure.txt").write_text(f"{type(error).__name__}: {error}")
    finally:
        loop.loader_of = loader_of
    (config.out / f"rank{place.rank}.json").write_text(json.dumps(seen))


def main(told: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    place = loop.Place(dist.get_rank(), dist.get_world_size(), torch.device("cpu"))
    for text, stop in json.loads(told.read_text()):
        work(from_json(PretrainConfig, text), stop, place)
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    main(Path(sys.argv[1]))
