"""Ingest, embed and pretrain on one Ray, one after another; the training's machine is drained on the way.

`python tests/infra/jobs_on_ray.py FOLDER` prints one line of JSON: what Ray's exporter then has of ours, and what the
training's folder holds.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import ray
from ray.core.generated import autoscaler_pb2

from tests.platform.ingest.radiographs import write_dicom
from tests.pretrain.conftest import tiny_of
from tests.pretrain.test_job import words_of
from vetdino.infra import cli

ROOT = Path(__file__).resolve().parents[2]

STEPS = 300


def write_archive(folder: Path) -> None:
    """Sixteen studies of two views, and a file that is no DICOM."""
    for number in range(32):
        patient, study = f"p{number // 2}", f"1.2.{number // 2}"
        write_dicom(folder / f"{number}", patient, study, 100 + number, SeriesDescription=f"{number}")
    (folder / "notes.dcm").write_text("no DICOM")


def drain_after(step: int, run: Path, address: str, node: str) -> None:
    """Tell Ray that the machine will be taken away, once the training has done so many steps."""
    status: dict[str, Any] = {}
    while status.get("step", 0) < step:
        time.sleep(0.1)
        if (run / "status.json").exists():
            status = json.loads((run / "status.json").read_text())
    client = ray._raylet.GcsClient(address=address)
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why = client.drain_node(node, reason, "spot", int((time.time() + 600) * 1000))
    assert accepted, why


def watch(address: str, found: dict[str, list[str]], ended: threading.Event) -> None:
    """Read the exporter every half second: a gauge is there only while its job runs."""
    while not ended.wait(0.5):
        with suppress(OSError):  # the machine is busy
            found |= exported(address)


def exported(address: str) -> dict[str, list[str]]:
    """Our figures at the exporter: name -> its lines' labels."""
    found: dict[str, list[str]] = {}
    for line in urlopen(address, timeout=30).read().decode().splitlines():
        if line.startswith("ray_vetdino_"):
            name, _, labels = line.partition("{")
            found.setdefault(name, []).append(labels)
    return found


def main() -> None:
    """Run the jobs and print what they left."""
    work, printed = Path(sys.argv[1]), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    write_archive(work / "archive")
    # Ray's processes inherit these: figures and notices are looked at twice a second.
    os.environ |= {"RAY_metrics_report_interval_ms": "500", "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5"}
    os.environ |= {"MLFLOW_TRACKING_URI": "nowhere://", "OMP_NUM_THREADS": "1"}
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    node = ray.nodes()[0]
    shards, run = work / "shards", work / "run"
    settings = ["--val", "0.2", "--test", "0.2", "--dicom.search-text", "none"]
    small = str(ROOT / "infra" / "zoo" / "tiny")
    config = tiny_of(
        shards, run, {"probe.every": 0}, steps=STEPS, checkpoint_every=1000, log_every=2, batch=4
    )
    address = ray.get_runtime_context().gcs_address
    metrics = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    found: dict[str, list[str]] = {}
    ended = threading.Event()
    watcher = threading.Thread(target=watch, args=(metrics, found, ended))
    watcher.start()
    threading.Thread(target=drain_after, args=(3, run, address, node["NodeID"]), daemon=True).start()
    codes = [
        cli.main(["ingest", str(work / "archive"), str(shards), *settings]),
        cli.main(["embed", small, str(shards), str(work / "features"), "--device", "cpu"]),
        cli.main(["pretrain", "demo", *words_of(replace(config, keep=1000))]),
    ]
    ended.set()
    watcher.join()
    checkpoints = sorted(path.name for path in (run / "checkpoints").glob("step_*"))
    print(json.dumps({"codes": codes, "found": found, "checkpoints": checkpoints}), file=printed, flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
