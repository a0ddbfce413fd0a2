"""`python -m benchmarks.loader.s3`: the same batches from a server of S3's protocol, with and without a cache."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import torch

from benchmarks.loader.__main__ import write_data
from vetdino.platform.core.storage import filesystem
from vetdino.platform.data.shard_cache import BOUND
from vetdino.pretrain.batches.loader import CropDataset, crop_loader
from vetdino.pretrain.batches.order import StepSampler, StudyOrder
from vetdino.pretrain.recipes import recipe

BUCKET = "s3://vetdino-benchmark"
SERVER = Path(__file__).parents[2] / "tests" / "s3_server.py"


@contextmanager
def served() -> Iterator[None]:
    """A server of its own process, and the environment that leads to it."""
    with subprocess.Popen(
        [sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        address = server.stdout.readline().split()[0]
        os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_ENDPOINT_URL": address}
        os.environ |= {"AWS_DEFAULT_REGION": "us-east-1"}
        yield
        server.stdin.close()


def studies_per_second(folder: str, batch: int, gib: float, cache: Path) -> float:
    """Studies a second of wall time over one epoch, the two views of each decoded, crops left to the device."""
    os.environ |= {BOUND: str(gib), "VETDINO_CACHE": str(cache)}
    config = recipe("multi_view_s14")
    dataset = CropDataset([folder], config.crops, config.distill.masks, 16, 0, planned_only=True)
    steps = len(dataset) // batch
    sampler = StepSampler(StudyOrder(len(dataset), batch, 0), first=0, steps=steps, rank=0, world=1)
    began = time.perf_counter()
    for _ in crop_loader(dataset, sampler, 0):
        pass
    return steps * batch / (time.perf_counter() - began)


def measure(studies: int, batch: int, rounds: int, work: Path) -> dict[str, list[float]]:
    """Studies a second by round: `local`, from S3 with no cache, into an `empty` one, from the `filled` one."""
    write_data(work, studies, 7, 512, 32 << 20, 0)
    files, bucket = filesystem(BUCKET)
    files.mkdir(bucket)
    files.put(str(work / "shards"), f"{bucket}/shards", recursive=True)
    found: dict[str, list[float]] = {name: [] for name in ("local", "none", "empty", "filled")}
    for number in range(rounds):
        cache, url = work / f"cache{number}", f"{BUCKET}/shards"
        found["local"].append(studies_per_second(str(work / "shards"), batch, 1, cache))
        found["none"].append(studies_per_second(url, batch, 0, cache))
        found["empty"].append(studies_per_second(url, batch, 1, cache))
        found["filled"].append(studies_per_second(url, batch, 1, cache))
    return found


def main() -> None:
    """Measure as the command line says, print a line for each way and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader.s3", description=__doc__)
    parser.add_argument("--studies", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("s3.json"), help="file for the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as work, served():
        found = measure(args.studies, args.batch, args.rounds, Path(work))
    for name, rates in found.items():
        print(f"{name:8}" + "".join(f"{rate:9.1f}" for rate in sorted(rates)) + "  studies/s")
    args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
