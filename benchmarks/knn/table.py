"""`python -m benchmarks.knn.table`: a long float16 table opened, searched, fitted and indexed, each in a process.

Of each: seconds, processor time, and the most memory that was its own (`own`) and that was resident with mapped files
(`resident`), which the system takes back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.knn.__main__ import disagreements, vectors

PART = 10_000
"""Rows of a part of the table."""


def write_table(folder: Path, rows: int, queries: int, dimensions: int) -> None:
    """A folder as `vetdino embed` writes it: clustered vectors, three studies a patient, 14 findings."""
    from vetdino.platform.core.files import atomic_write
    from vetdino.platform.measure.features import INDEX, Features, TableIndex, write_table
    from vetdino.platform.measure.probes import Probes, probe_pictures

    findings = tuple(f"finding{number}" for number in range(14))
    direction_DF = np.random.default_rng(9).normal(size=(dimensions, 14)).astype(np.float32)
    parts, first = {}, 0
    folder.mkdir(parents=True)
    for split, total in (("train", rows), ("val", queries // 2), ("test", queries)):
        for start in range(0, total, PART):
            count = min(PART, total - start)
            part = vectors(count, dimensions, seed=first + 1)
            score_NF = part @ direction_DF + np.random.default_rng(first).logistic(0, 0.5, (count, 14))
            features = Features(
                keys=tuple(f"{row:032x}" for row in range(first, first + count)),
                patients=tuple(f"{split}{row // 3:028x}" for row in range(first, first + count)),
                splits=(split,) * count,
                views=("",) * count,
                vectors=part.astype(np.float16),
                findings=findings,
                labels=(score_NF > 1.0).astype(np.float32),
                backbone="benchmark",
                manifest="m",
                projections=("LLAT VD",) * count,
            )
            name = f"{split}-{start // PART:06d}.parquet"
            with (folder / name).open("wb") as file:
                write_table(features, file, {"shard": name, "dtype": "float16"})
            parts[name] = count
            first += count
    probes = Probes(probe_pictures(), vectors(8, dimensions, seed=0))
    index = TableIndex("study", "float16", "benchmark", "m", findings, parts, probes)
    atomic_write(folder / INDEX, index.to_text())


class _Source:
    """The table as a source of the linear probe."""

    name = "table"

    def __init__(self, table: Any) -> None:
        self.table = table

    def available(self, descriptors: Any) -> list[Any]:
        return [next(iter(descriptors))]

    def features(self, pool: str = "cls", blocks: int = 1) -> Any:
        return self.table


def steps(folder: Path, k: int) -> dict[str, Callable[[], dict[str, Any]]]:
    """Name -> what is measured; each gives facts."""
    from vetdino.platform.measure.features import load_features

    def opened() -> dict[str, Any]:
        return {"table": repr(load_features(folder))}

    def neighbors() -> dict[str, Any]:
        from vetdino.platform.measure.neighbors import nearest

        table = load_features(folder)
        np.savez(
            folder.parent / "ours.npz",
            *nearest(table.of("train").vectors, table.of("test").vectors, k, "cpu"),
        )
        return {}

    def flat() -> dict[str, Any]:
        import faiss

        table = load_features(folder)
        index = faiss.IndexFlatIP(table.vectors.shape[1])
        index.add(_units(table.of("train").vectors))
        np.savez(folder.parent / "flat.npz", *index.search(_units(table.of("test").vectors), k))
        return {}

    def knn_task() -> dict[str, Any]:
        from vetdino.downstream.findings.knn import knn

        return {key: str(value) for key, value in knn(load_features(folder), device="cpu").facts.items()}

    def linear_task() -> dict[str, Any]:
        from vetdino.downstream.findings.linear import linear
        from vetdino.platform.measure.metrics import auroc, macro

        answers = linear(_Source(load_features(folder)), device="cpu")
        facts = {key: str(value) for key, value in answers.facts.items()}
        return facts | {"auroc": float(macro(auroc(answers.truth, answers.scores)))}

    def gallery() -> dict[str, Any]:
        from vetdino.serving.gallery.build import TableSource, build

        return {"gallery": build(TableSource(folder), folder.parent / "gallery").summary()}

    return {
        "open": opened,
        "nearest": neighbors,
        "faiss flat": flat,
        "knn": knn_task,
        "linear": linear_task,
        "gallery": gallery,
    }


def _units(stored_ND: np.ndarray) -> np.ndarray:
    rows_ND = np.array(stored_ND, np.float32)
    return rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)


def _memory() -> tuple[int, int]:
    """Bytes of this process's own memory, and of all that is resident."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(lines[name].split()[0]) * 1024 for name in ("RssAnon", "VmRSS"))  # type: ignore[return-value]


def measured(name: str, folder: Path, k: int) -> dict[str, Any]:
    """One step in this process, with its time and its largest memory above that before it began."""
    import faiss  # noqa: F401  so that libraries are not counted
    import pyarrow.parquet  # noqa: F401
    import torch  # noqa: F401

    step, ended = steps(folder, k)[name], threading.Event()
    before, peak = _memory(), list(_memory())

    def watch() -> None:
        while not ended.wait(0.01):
            peak[:] = map(max, peak, _memory())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    wall, cpu = time.perf_counter(), time.process_time()
    facts = step()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    ended.set()
    watcher.join()
    own, resident = (round((most - first) / 2**20) for most, first in zip(peak, before, strict=True))
    return {"seconds": wall, "cpu": cpu, "own_mib": own, "resident_mib": resident, **facts}


def main() -> None:
    """Measure as the command line asks, print a table and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.knn.table", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the training split")
    parser.add_argument("--queries", type=int, default=10_000, help="rows of the test split")
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--k", type=int, default=200, help="neighbors")
    parser.add_argument("--steps", nargs="+", default=["open", "nearest", "faiss flat", "gallery"])
    parser.add_argument("--folder", type=Path, help="keep the table there, and use it if it is there")
    parser.add_argument("--out", type=Path, default=Path("table.json"), help="file for the results")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(args.one, args.folder, args.k)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary) / "features").absolute()
        if not folder.exists():
            write_table(folder, args.rows, args.queries, args.dimensions)
        results = {}
        for name in args.steps:
            words = ["--one", name, "--folder", str(folder), "--k", str(args.k)]
            command = [sys.executable, "-m", "benchmarks.knn.table", *words]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results[name] = each = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{name:11}{each['seconds']:9.1f} s {each['cpu']:9.1f} cpu s {each['own_mib']:7} MiB own "
                f"{each['resident_mib']:7} MiB resident",
                flush=True,
            )
        if {"nearest", "faiss flat"} <= set(results):
            ours, flat = (np.load(folder.parent / f"{name}.npz") for name in ("ours", "flat"))
            differ = disagreements((ours["arr_0"], ours["arr_1"]), (flat["arr_0"], flat["arr_1"]))
            ratio = results["faiss flat"]["cpu"] / results["nearest"]["cpu"]
            results["compared"] = {"differ": differ, "flat_over_ours": ratio}
            print(
                f"faiss flat over nearest: {ratio:.2f} by processor time; {differ} queries answered differently"
            )
    machine = {"cores": os.cpu_count(), "load": os.getloadavg()}
    settings = {name: str(value) for name, value in vars(args).items()}
    args.out.write_text(
        json.dumps({"machine": machine, "settings": settings, "found": results}, indent=1) + "\n"
    )
    print(args.out)


if __name__ == "__main__":
    main()
