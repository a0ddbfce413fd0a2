"""`python -m benchmarks.embed`: images a second of the job and of a loop over decoded batches, in turns."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.step.measure import in_turns
from vetdino.platform.data.config import ShardConfig
from vetdino.platform.data.manifest import VERSION, Manifest, load_manifest, save_manifest
from vetdino.platform.data.shards import ShardWriter, read_shard
from vetdino.platform.data.study import Study, View
from vetdino.platform.measure.descriptors import Descriptor
from vetdino.platform.measure.embedding import EmbedJob, embed_shards, finish_table
from vetdino.platform.measure.extraction import image_vectors, prepared, unit_views
from vetdino.platform.measure.prefetch import ViewBatch, batched, prefetched, view_places
from vetdino.platform.models.backbone import Backbone, random_backbone
from vetdino.platform.models.config import BackboneConfig


def write_shards(folder: Path, studies: int, side: int, shard_mb: int) -> None:
    """Generated studies of two views with soft structure, as JPEG like those of an archive."""
    random = np.random.default_rng(0)
    with ShardWriter(folder, "train", ShardConfig(max_bytes=shard_mb * 2**20)) as writer:
        for number in range(studies):
            views = []
            for _ in range(2):
                coarse = random.integers(0, 255, (side // 16, side // 16), np.uint8)
                pixels = np.kron(coarse, np.ones((16, 16), np.uint8)) // 2 + random.integers(
                    0, 20, (side // 16 * 16,) * 2, np.uint8
                )
                views.append(View(pixels.astype(np.uint8), "VD"))
            writer.write(Study(f"k{number:06d}", f"p{number:06d}", tuple(views), {}, "train"))
    save_manifest(folder, Manifest(VERSION, "benchmark", (), tuple(writer.shards), {}, "c"))


def decoded_batches(job: EmbedJob, side: int) -> list[ViewBatch[Any]]:
    """All batches of the job, in memory."""
    groups = (
        (shard, group)
        for shard in job.wanted
        for group in batched(view_places(read_shard(job.shards, shard)), job.batch)
    )
    with closing(prefetched(groups, side, job.threads)) as ready:
        return list(ready)


def compare(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Images a second of each contestant, and the job's over the loop's."""
    torch.set_num_threads(args.threads)
    config = BackboneConfig(
        name=f"vit_{args.network}_patch16_224",
        side=args.side,
        patch=args.patch,
        width={"tiny": 192, "small": 384, "base": 768}[args.network],
        depth=12,
        heads={"tiny": 3, "small": 6, "base": 12}[args.network],
    )
    device = torch.device(args.device)
    backbone: Backbone = random_backbone(config, seed=0).eval().to(device)
    write_shards(folder / "shards", args.studies, args.pixels, args.shard_mb)
    job = EmbedJob(
        shards=str(folder / "shards"),
        manifest=load_manifest(folder / "shards"),
        splits=("train",),
        out=folder / "features",
        backbone=backbone.card.digest,
        level="study",
        dtype="float16",
        batch=args.batch,
        threads=args.decoders,
    )
    batches = decoded_batches(job, backbone.side)

    def embed() -> None:
        shutil.rmtree(job.out, ignore_errors=True)
        embed_shards(job, backbone, job.wanted)

    def loop() -> None:
        for batch in batches:
            unit_views(image_vectors(backbone, prepared(backbone, batch.images), Descriptor()), batch)

    clocks = in_turns({"embed": embed, "loop": loop}, args.rounds, device)
    finish_table(job, backbone)
    images = sum(map(len, batches))
    results = {
        name: {**clock.summary, "images_a_second": images / clock.summary["wall_min"]}
        for name, clock in clocks.items()
    }
    ratios = {
        f"ratio_{kind}": results["loop"][f"{kind}_min"] / results["embed"][f"{kind}_min"]
        for kind in ("wall", "cpu")
    }
    return {"images": images, "shards": len(job.wanted), **results, **ratios}


def main() -> None:
    """Measure as the command line asks, print the figures and write them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embed", description=__doc__)
    parser.add_argument("--studies", type=int, default=100, help="of two views each")
    parser.add_argument("--pixels", type=int, default=512, help="side of a stored view")
    parser.add_argument("--network", choices=("tiny", "small", "base"), default="small")
    parser.add_argument("--side", type=int, default=224, help="side of the network's image")
    parser.add_argument("--patch", type=int, default=16, help="side of a patch in pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--shard-mb", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds, after one warm-up round")
    parser.add_argument("--threads", type=int, default=1, help="of the network, on a CPU")
    parser.add_argument("--decoders", type=int, default=2, help="threads that decode")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("embed.json"), help="file for the results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        results = compare(args, Path(folder))
    for name in ("embed", "loop"):
        each = results[name]
        print(f"{name:6} {each['images_a_second']:8.1f} images/s   cpu {each['cpu_min']:.2f} s")
    print(
        f"embed over loop: {results['ratio_wall']:.3f} by wall time, {results['ratio_cpu']:.3f} by processor time"
    )
    machine = {"cores": os.cpu_count(), "load": os.getloadavg(), "torch": torch.__version__}
    settings = {name: str(value) for name, value in vars(args).items()}
    args.out.write_text(
        json.dumps({"machine": machine, "settings": settings, "found": results}, indent=1) + "\n"
    )
    print(args.out)


if __name__ == "__main__":
    main()
