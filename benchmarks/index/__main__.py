"""`python -m benchmarks.index`: the index of a million studies, how fast it opens and what memory its readers take."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from vetdino.platform.core.progress import track
from vetdino.platform.data.config import ShardConfig
from vetdino.platform.data.index import StudyIndex
from vetdino.platform.data.index_file import INDEX, index_table, save_index
from vetdino.platform.data.manifest import VERSION, Manifest, load_manifest, save_manifest
from vetdino.platform.data.rows import label_matrix, view_counts
from vetdino.platform.data.samples import sample_key, stored_view
from vetdino.platform.data.shards import ShardWriter
from vetdino.platform.data.study import StoredView, Study, View
from vetdino.pretrain.batches.order import StepSampler, StudyOrder

FINDINGS = tuple(f"finding_{number:02d}" for number in range(14))

SHARES = {"train": 0.9, "val": 0.05, "test": 0.05}

MEMORY = ("Rss", "Pss", "Private_Dirty")
"""Of a process: all its pages in memory; the same with shared pages divided; those that it alone has written."""


def make_shards(folder: Path, studies: int, shard_kb: int) -> Manifest:
    """Real shards of generated studies of two tiny views each, with manifest and index; two studies of a patient."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (8, 8), np.uint8)
    jpeg = stored_view(View(pixels), ShardConfig()).encoded
    views = tuple(StoredView(jpeg, projection, modality="DX") for projection in ("VD", "LLAT"))
    shards, rows = [], []
    for split, share in SHARES.items():
        count = round(studies * share)
        keys = sorted(random.bytes(12).hex() for _ in range(count))
        labels = random.choice([0.0, 1.0, np.nan], (count, len(FINDINGS)), p=[0.6, 0.2, 0.2])
        with ShardWriter(folder, split, ShardConfig(max_bytes=shard_kb * 1024)) as writer:
            for number in track(range(count), label=f"write {split}"):
                patient = keys[number // 2][::-1]
                known = dict(zip(FINDINGS, labels[number].tolist(), strict=True))
                writer.write(Study(keys[number], patient, views, known, split))
        shards += writer.shards
        rows += writer.rows
    manifest = Manifest(VERSION, "generated", FINDINGS, tuple(shards), {}, "")
    save_manifest(folder, manifest)
    save_index(folder, manifest, rows)
    return manifest


def memory() -> dict[str, float]:
    """Memory of this process in MB, by the names of MEMORY."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    sizes = {name: float(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines[1:])}
    return {name: sizes[name] / 1024 for name in MEMORY}


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What `work` returns, and its seconds by the clock and of processor time."""
    clock, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - clock, time.process_time() - cpu


def rank(folder: str, loads: int, seed: int) -> None:
    """What one rank does: opens both indexes, loads studies here and there; prints its memory after each line read."""
    before = memory()
    (index, _), clock, cpu = timed(lambda: (StudyIndex(folder, "train"), StudyIndex(folder, "val")))
    opened = memory()
    places = np.random.default_rng(seed).integers(0, len(index), loads)
    _, _, loading = timed(lambda: [index.load(place) for place in places])
    print(json.dumps({"seconds": clock, "cpu": cpu, "load_us": loading / loads * 1e6}), flush=True)
    print(json.dumps(_growth(before, opened)), flush=True)
    for scanned, _ in enumerate(sys.stdin):
        if scanned:
            label_matrix(index.rows, FINDINGS), view_counts(index.rows), index.find([index.key(0)])
        print(json.dumps(_growth(before, memory())), flush=True)


def _growth(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {**{name: after[name] - before[name] for name in MEMORY}, "all": after["Rss"]}


def ranks(folder: Path, count: int, loads: int) -> dict[str, Any]:
    """Figures of the first of `count` ranks that have the index open at the same time."""
    command = [sys.executable, "-m", "benchmarks.index", "--rank", str(folder), "--loads", str(loads)]
    running = [
        subprocess.Popen(
            [*command, "--seed", str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for number in range(count)
    ]
    first: list[dict[str, Any]] = []
    for process in running:
        first = first or [json.loads(_line(process)), json.loads(_line(process))]
        if process is not running[0]:
            _line(process), _line(process)
    for _ in range(2):  # after the loads; after a pass over all labels, views and keys
        for process in running:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        figures = [json.loads(_line(process)) for process in running]
        first.append(figures[0])
    for process in running:
        process.communicate()
    return {**first[0], "opened": first[1], "loaded": first[2], "scanned": first[3]}


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline()


def sampler_seconds(manifest: Manifest, batch: int, window: int) -> dict[str, float]:
    """Processor time of the first step of an epoch, and of each of the next ones."""
    shards = tuple(shard.studies for shard in manifest.of("train"))
    order = StudyOrder(sum(shards), batch, 0, shards, window)
    steps = min(order.per_epoch, 200)
    sampler = iter(StepSampler(order, first=0, steps=steps, rank=0, world=1))
    _, _, first = timed(lambda: next(sampler))
    _, _, others = timed(lambda: [sum(1 for _ in sampler)])
    return {"first": first, "each": others / max(1, steps - 1)}


def walk_seconds(folder: Path, manifest: Manifest, shards: int) -> float:
    """Processor time a study of what an index used to be made of: the headers of every tar."""
    sample = manifest.shards[:: max(1, len(manifest.shards) // shards)]

    def walk() -> int:
        studies = 0
        for shard in sample:
            with tarfile.open(folder / shard.path, "r:") as tar:
                studies += sum(1 for _ in groupby(tar, key=lambda header: sample_key(header.name)))
        return studies

    studies, _, seconds = timed(walk)
    return float(seconds / studies)


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """All figures of a folder; the cache of the node is empty at first."""
    manifest = load_manifest(folder)
    with TemporaryDirectory(dir=args.work) as cache:
        os.environ["VETDINO_CACHE"] = cache
        unpacking = ranks(folder, 1, args.loads)
        (copy,) = (Path(cache) / "index").glob("*.arrow")
        figures = {
            "studies": len(index_table(folder, manifest)),
            "shards": len(manifest.shards),
            "shards_mb": sum(shard.bytes for shard in manifest.shards) / 2**20,
            "parquet_mb": (folder / INDEX).stat().st_size / 2**20,
            "copy_mb": copy.stat().st_size / 2**20,
            "first": unpacking,
            "one": ranks(folder, 1, args.loads),
            "two": ranks(folder, 2, args.loads),
            "sampler": {window: sampler_seconds(manifest, args.batch, window) for window in (0, 8)},
            "walk": walk_seconds(folder, manifest, args.walk),
        }
    return figures


def table(figures: dict[str, Any]) -> str:
    """The figures as lines of text."""
    studies = figures["studies"]
    lines = [
        f"{studies:,} studies in {figures['shards']:,} shards of {figures['shards_mb']:,.0f} MB",
        f"index.parquet {figures['parquet_mb']:.1f} MB, uncompressed copy of the node {figures['copy_mb']:.1f} MB",
        "",
        f"{'':24}{'open s':>8}{'cpu s':>8}{'own MB':>8}{'PSS MB':>8}{'RSS MB':>8}{'process':>9}{'load us':>9}",
    ]
    for name, title in (("first", "first on the node"), ("one", "one rank"), ("two", "each of two ranks")):
        row = figures[name]
        for stage in ("opened", "loaded", "scanned"):
            sizes = row[stage]
            times = f"{row['seconds']:>8.2f}{row['cpu']:>8.2f}" if stage == "opened" else " " * 16
            grown = (
                f"{sizes['Private_Dirty']:>8.1f}{sizes['Pss']:>8.1f}{sizes['Rss']:>8.1f}{sizes['all']:>9.0f}"
            )
            loading = f"{row['load_us']:>9.0f}" if stage == "loaded" else ""
            label = title if stage == "opened" else f"  {stage}"
            lines.append(f"{label:24}{times}{grown}{loading}")
    lines.append("")
    for window, seconds in figures["sampler"].items():
        order = f"window {window}" if window else "permutation"
        lines.append(
            f"sampler, {order}: {seconds['each'] * 1e3:.2f} ms a step, "
            f"first of an epoch {seconds['first'] * 1e3:.0f} ms"
        )
    walk = figures["walk"]
    lines.append(f"walk of tar headers: {walk * 1e6:.0f} us a study, {walk * studies:.0f} s for all")
    return "\n".join(lines)


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.index", description=__doc__)
    parser.add_argument("--studies", type=int, default=1_000_000)
    parser.add_argument("--shard-kb", type=int, default=4096, help="largest size of a shard")
    parser.add_argument("--shards", type=Path, help="folder for the shards; those of an earlier run are used")
    parser.add_argument("--work", type=Path, help="folder for shards and cache (4 GB a million)")
    parser.add_argument("--loads", type=int, default=2000, help="studies that a rank loads")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--walk", type=int, default=20, help="shards whose headers are walked")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("index.json"), help="file for the figures")
    return parser.parse_args(words)


def main() -> None:
    """Measure as the command line says, print a table and write the figures."""
    args = parse_args()
    if args.rank:
        rank(args.rank, args.loads, args.seed)
        return
    if args.work:
        args.work.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=args.work) as made:
        folder = args.shards or Path(made) / "shards"
        if args.shards is None or not folder.exists():
            make_shards(folder, args.studies, args.shard_kb)
        figures = measure(folder, args)
    print(table(figures))
    settings = {name: str(value) for name, value in vars(args).items()}
    args.out.write_text(json.dumps({"settings": settings, "found": figures}, indent=1) + "\n")
    print(args.out)


if __name__ == "__main__":
    main()
