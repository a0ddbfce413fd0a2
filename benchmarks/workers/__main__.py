"""`python -m benchmarks.workers`: what a second worker brings to the loader, an ingest and an embed on one machine.

Each is run with one worker and with two in turn; what they write is compared byte by byte.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.embed.__main__ import write_shards
from benchmarks.ingest_scale.__main__ import digest, finished, start, write_archive
from vetdino.platform.data.manifest import load_manifest
from vetdino.platform.measure.embed_actors import embed_on_ray
from vetdino.platform.measure.embedding import EmbedJob, finish_table
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.pretrain.batches.loader import CropDataset, crop_loader
from vetdino.pretrain.batches.order import StepSampler, StudyOrder
from vetdino.pretrain.recipes import recipe

WORKERS = (1, 2)


def main() -> None:
    """Measure, print a line for each part and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("--files", type=int, default=8000, help="of the ingest, 24 x 24 pixels each")
    parser.add_argument("--steps", type=int, default=24, help="batches of 32 studies that the loader makes")
    parser.add_argument(
        "--studies", type=int, default=256, help="of two views, embedded by a ViT-S/16 at 224"
    )
    parser.add_argument("--rounds", type=int, default=3, help="the best of each is kept")
    parser.add_argument("--out", type=Path, help="figures as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_shards(work / "shards", args.studies, 512, shard_mb=1)
        write_archive(work / "archive", args.files, 24)
        (work / "key").write_bytes(bytes(32))
        parts = {
            "loader, crops cut on the CPU": lambda w, r: loader(work, w, args.steps, planned_only=False),
            "loader, crops cut on the device": lambda w, r: loader(work, w, args.steps, planned_only=True),
            "ingest": lambda w, r: ingest(work, w, r, args.files),
            "embed": lambda w, r: embed(work, w, r),
        }
        found = {name: in_turns(part, args.rounds) for name, part in parts.items()}
        same = {
            "ingest": len({digest(path) for path in work.glob("ingest-*")}) == 1,
            "embed": len({digest(path) for path in work.glob("embed-*")}) == 1,
        }
    for name, speeds in found.items():
        one, two = speeds
        equal = {True: "equal files", False: "OTHER FILES", None: ""}[same.get(name)]
        print(f"{name:<34}{one:>8.1f} {two:>8.1f} a second{two / one:>7.2f}x  {equal}")
    if args.out:
        args.out.write_text(json.dumps({"a_second": found, "equal_files": same}, indent=1) + "\n")
    if not all(same.values()):
        raise SystemExit(1)


def in_turns(part: Callable[[int, int], float], rounds: int) -> list[float]:
    """The best speed of each number of workers. part: called with workers and round."""
    speeds = [[part(workers, number) for workers in WORKERS] for number in range(rounds)]
    return [max(of_one) for of_one in zip(*speeds, strict=True)]


def loader(work: Path, workers: int, steps: int, planned_only: bool) -> float:
    """Studies a second of `multi_view_s14`'s crops, after the first batches."""
    config, batch, warm = recipe("multi_view_s14"), 32, 4
    dataset = CropDataset(
        [str(work / "shards")],
        config.crops,
        config.distill.masks,
        config.crops.global_side // config.patch_side,
        seed=0,
        planned_only=planned_only,
    )
    sampler = StepSampler(StudyOrder(len(dataset), batch, 0), first=0, steps=steps + warm, rank=0, world=1)
    began = 0.0
    for number, _ in enumerate(crop_loader(dataset, sampler, workers), start=1):
        if number == warm:
            began = time.monotonic()
    return steps * batch / (time.monotonic() - began)


def ingest(work: Path, workers: int, number: int, files: int) -> float:
    """Files a second, the start of the process included."""
    out = work / f"ingest-{workers}-{number}"
    return finished(start(work / "archive", out, workers, 4 << 20), files)["files_per_second"]


def embed(work: Path, workers: int, number: int) -> float:
    """Images a second of Ray's actors with a core each, from the first part that is written to the last."""
    import ray

    config = BackboneConfig(name="vit_small_patch16_224", side=224)
    backbone = random_backbone(config, seed=0).eval()
    manifest = load_manifest(work / "shards")
    job = EmbedJob(
        shards=str(work / "shards"),
        manifest=manifest,
        splits=("train",),
        out=work / f"embed-{workers}-{number}",
        backbone=backbone.card.digest,
        level="study",
        dtype="float16",
        batch=32,
        threads=1,
    )
    times: list[tuple[float, int]] = []
    ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    embed_on_ray(
        job,
        backbone,
        job.wanted,
        "cpu",
        workers,
        lambda studies: times.append((time.monotonic(), studies)),
        lambda _: None,
    )
    ray.shutdown()
    finish_table(job, backbone)
    (began, first), (ended, _) = times[0], times[-1]
    return 2 * (sum(studies for _, studies in times) - first) / (ended - began)


if __name__ == "__main__":
    main()
