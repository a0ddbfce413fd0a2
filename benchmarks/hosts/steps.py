"""The steps of the show: each runs jobs, disturbs some of them, and yields what it found of each claim."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vetdino.platform.core.storage import filesystem, listing, read_bytes, upload

from .network import HOSTS, Host
from .stack import BUCKET, HEAD, ROOT, Cluster, Job, StepError, wait_for

Result = tuple[str, str, bool]
"""Claim, what was found, whether the claim holds."""

STUDIES = 60

STEPS, EVERY = 30, 5
"""Of a training, and between two of its checkpoints."""

SETTLED_S = 5.0
"""Seconds that a host which was cut off has the network again before it is started anew."""

INGEST = ("--val", "0.2", "--test", "0.2", "--shards.max-bytes", "6000", "--dicom.search-text", "none")
"""Small shards, so that there are several ranges of them and both hosts have work."""

TRAIN = (
    *("--workers", "2", "--threads", "1", "--device", "cpu", "--loaders", "1", "--restarts", "5"),
    *("--batch", "8", "--steps", str(STEPS), "--checkpoint-every", str(EVERY), "--log-every", "1"),
    *("--backbone.name", "vit_tiny_patch16_224", "--backbone.side", "32", "--backbone.patch", "8"),
    *("--backbone.width", "32", "--backbone.depth", "2", "--backbone.heads", "2"),
    *("--crops.global-side", "32", "--crops.local-side", "16", "--crops.locals-per-view", "2"),
    *("--distill.head.prototypes", "32", "--distill.head.hidden", "32", "--distill.head.bottleneck", "16"),
    *("--probe.every", "15", "--probe.k", "3", "--optim.precision", "float32"),
)
"""The smallest training, with everything that a large one has."""

UNLIKE = ("time", "speed/studies_per_second")
"""What the records of two equal trainings need not share."""


# The steps ------------------------------------------------------------------------------------------------


def start(cluster: Cluster) -> Iterator[Result]:
    """The hosts have vetdino's dependencies; vetdino comes with each job."""
    alive = cluster.alive()
    yield "three hosts in one Ray", ", ".join(sorted(alive)), alive == {host.address for host in HOSTS}
    job = cluster.submit("where", "-m", "benchmarks.hosts.where")
    job.finished()
    files: Mapping[str, str] = last_json(job.output)
    shipped = {name for name, file in files.items() if "/working_dir_files/" in file}
    yield "each runs the code that came with the job", ", ".join(sorted(shipped)), shipped == set(names())


def ingest(cluster: Cluster) -> Iterator[Result]:
    """An archive at a URL to shards on the shared disk, undisturbed and with a host cut off; both uploaded."""
    write_archive(cluster)
    whole, cut = (cluster.work / "shared" / name for name in ("shards", "shards_cut"))
    seconds = ingest_job(cluster, whole).finished()
    expected = digests(whole)
    tars = sum(name.endswith(".tar") for name in expected)
    yield "ingest from s3:// on two hosts", f"{tars} shards, job {seconds:.0f} s", tars > 5
    job = ingest_job(cluster, cut)
    job.when(lambda: any(cut.parent.glob(f"{cut.name}.tmp*/ranges/*/done.json")), "the first range")
    lost = cut_off(cluster, HOSTS[2], job)
    seconds = job.finished()
    yield f"ingest, {HOSTS[2].name} cut off: equal bytes", *compared(expected, digests(cut), lost, seconds)
    upload(f"{BUCKET}/shards", {path.name: path for path in whole.iterdir() if path.name != "quarantine.csv"})


def pretrain(cluster: Cluster) -> Iterator[Result]:
    """Shards and output at URLs: undisturbed; the first worker's host killed; the first worker's host cut off."""
    seconds = pretrain_job(cluster, "whole").finished()
    expected = trained("whole")
    last = f"step_{STEPS:08d}"
    done = any(last in name for name in expected)
    yield "pretrain with 2 workers on 2 hosts", f"{STEPS} steps, job {seconds:.0f} s", done
    for name, disturb in (("killed", kill), ("cut off", cut_off)):
        run = name.replace(" ", "_")
        job = pretrain_job(cluster, run)
        job.when(lambda run=run: sealed(run) >= 2 * EVERY, f"the checkpoint of step {2 * EVERY}")
        host, before = first_workers_host(cluster, run), sealed(run)
        lost = disturb(cluster, host, job)
        seconds = job.finished()
        yield f"pretrain, {host.name} {name}: equal bits", *compared(expected, trained(run), lost, seconds)
        steps = resumed_after(cluster, run)
        known = bool(steps) and all(step % EVERY == 0 and before <= step < STEPS for step in steps)
        claim = f"pretrain, {host.name} {name}: continues from the newest checkpoint"
        yield claim, _steps_text(before, steps), known


def resume(cluster: Cluster) -> Iterator[Result]:
    """A training that an operator stops, and the same command with --resume."""
    job = pretrain_job(cluster, "stopped")
    job.when(lambda: sealed("stopped") >= 2 * EVERY, f"the checkpoint of step {2 * EVERY}")
    before, began = sealed("stopped"), time.monotonic()
    job.stop()
    lost = f"stopped in {time.monotonic() - began:.0f} s"
    seconds = pretrain_job(cluster, "stopped", "--resume").finished()
    yield (
        "pretrain, stopped, --resume: equal bits",
        *compared(trained("whole"), trained("stopped"), lost, seconds),
    )
    steps = resumed_after(cluster, "stopped")
    known = bool(steps) and all(before <= step < STEPS for step in steps)
    yield (
        "pretrain, stopped, --resume: continues from the newest checkpoint",
        _steps_text(before, steps),
        known,
    )


def evaluate(cluster: Cluster) -> Iterator[Result]:
    """The k-NN evaluation, its report at a URL."""
    report = f"{BUCKET}/reports/whole"
    words = ("--out", report, "--fractions", "1.0", "--resamples", "200", "--device", "cpu")
    seconds = vetdino(cluster, "evaluate", backbone("whole"), f"{BUCKET}/shards", *words).finished()
    metrics = json.loads(read_bytes(f"{report}/metrics.json") or b"{}")
    yield "evaluate by k-NN, report at s3://", f"metrics.json, job {seconds:.0f} s", bool(metrics)


def embed(cluster: Cluster) -> Iterator[Result]:
    """Features on the shared disk, undisturbed and with a host cut off."""
    whole, cut = (cluster.work / "shared" / name for name in ("features", "features_cut"))
    seconds = embed_job(cluster, whole).finished()
    expected = digests(whole)
    yield "embed on two hosts", f"{len(expected)} files, job {seconds:.0f} s", len(expected) > 5
    job = embed_job(cluster, cut)
    job.when(lambda: len(list(cut.glob("*.parquet"))) > 4, "a few parts")
    lost = cut_off(cluster, HOSTS[2], job)
    seconds = job.finished()
    yield f"embed, {HOSTS[2].name} cut off: equal bytes", *compared(expected, digests(cut), lost, seconds)


def serve(cluster: Cluster) -> Iterator[Result]:
    """A gallery, and the service as a job on the head, called from another host."""
    features, gallery = (str(cluster.work / "shared" / name) for name in ("features", "gallery"))
    vetdino(cluster, "index", "build", features, gallery).finished()
    job = vetdino(cluster, "serve", gallery, "--backbones", backbone("whole"), "--host", "0.0.0.0")
    url = f"http://{HEAD.address}:8600"
    job.when(lambda: cluster.status(f"{url}/health/ready") == 200, "the service")
    studies = sorted((cluster.work / "archive" / "dicom").glob("*/*"))[:3]
    command = [sys.executable, "-m", "benchmarks.hosts.ask", url, *map(str, studies)]
    answer = last_json(HOSTS[2].run(command, cluster.environment(HOSTS[2]) | {"PYTHONPATH": str(ROOT)}))
    scores = [study["score"] for study in answer["studies"]]
    found = len({study["key"] for study in answer["studies"]}) == len(studies) and min(scores) > 0.999
    text = f"{len(scores)} studies, lowest score of the best match {min(scores):.4f}"
    yield f"serve, called from {HOSTS[2].name}: each study finds itself", text, answer["ready"] and found
    job.stop()


def track(cluster: Cluster) -> Iterator[Result]:
    """What MLflow's server on PostgreSQL answers over its REST API."""
    for experiment, least in (("vetdino/pretrain", 3), ("vetdino/evaluate", 1)):
        runs = [run for run in runs_of(cluster, experiment) if run["data"].get("metrics")]
        ended = all(run["info"]["status"] == "FINISHED" for run in runs)
        values = sum(len(run["data"]["metrics"]) for run in runs)
        text = f"{len(runs)} runs with {values} metrics"
        yield f"MLflow on PostgreSQL has {experiment}", text, ended and len(runs) >= least


Step = Callable[[Cluster], Iterator[Result]]

ALL: tuple[Step, ...] = (start, ingest, pretrain, resume, evaluate, embed, serve, track)


# Disturbances ---------------------------------------------------------------------------------------------


def kill(cluster: Cluster, host: Host, job: Job) -> str:
    """SIGKILL to every process of a host; once Ray has noticed, the host is started again. What happened, in words."""
    count = host.kill()
    seconds = _until_lost(cluster, host, job)
    cluster.join(host)
    return f"{count} processes killed, noticed after {seconds:.0f} s"


def cut_off(cluster: Cluster, host: Host, job: Job) -> str:
    """Cut a host off until Ray has given it up, reconnect it, then start it anew. What happened, in words."""
    host.cut_off()
    seconds = _until_lost(cluster, host, job)
    host.reconnect()
    time.sleep(SETTLED_S)  # what still runs there reaches the others, and must not harm them
    host.kill()
    cluster.join(host)
    return f"cut off for {seconds:.0f} s"


def _until_lost(cluster: Cluster, host: Host, job: Job) -> float:
    """Seconds until Ray takes a host for lost. Raises StepError where the job has ended before, undisturbed."""
    began = time.monotonic()
    wait_for(
        lambda: host.address not in cluster.alive(), f"Ray to notice that {host.name} is lost", every=0.2
    )
    if not job.is_running and "marked dead" not in job.output:
        raise StepError(f"job {job.name} ended before {host.name} was lost: {job.output[-3000:]}")
    return time.monotonic() - began


# Jobs -----------------------------------------------------------------------------------------------------


def vetdino(cluster: Cluster, *words: str, name: str = "") -> Job:
    return cluster.submit(name or words[0], "-m", "vetdino", *words)


def ingest_job(cluster: Cluster, out: Path) -> Job:
    key = cluster.work / "shared" / "secret"
    places = (
        f"{BUCKET}/archive/dicom",
        str(out),
        "--secret",
        str(key),
        "--labels",
        f"{BUCKET}/archive/labels.csv",
    )
    return vetdino(cluster, "ingest", *places, *INGEST, name=f"ingest_{out.name}")


def pretrain_job(cluster: Cluster, run: str, *more: str) -> Job:
    places = ("--shards", f"{BUCKET}/shards", "--out", f"{BUCKET}/runs/{run}")
    name = "_".join(["pretrain", run, *(word.strip("-") for word in more)])
    return vetdino(cluster, "pretrain", "demo", *places, *TRAIN, *more, name=name)


def embed_job(cluster: Cluster, out: Path) -> Job:
    places = (backbone("whole"), f"{BUCKET}/shards", str(out))
    return vetdino(cluster, "embed", *places, "--device", "cpu", "--batch", "4", name=f"embed_{out.name}")


def backbone(run: str) -> str:
    return f"{BUCKET}/runs/{run}/backbone"


def names() -> list[str]:
    return [host.name for host in HOSTS]


# What they left -------------------------------------------------------------------------------------------


def write_archive(cluster: Cluster) -> None:
    """Generated studies, uploaded; the shared folder with the secret."""
    archive, shared = cluster.work / "archive", cluster.work / "shared"
    shared.mkdir()
    (shared / "secret").write_bytes(bytes(32))
    command = [
        sys.executable,
        "-m",
        "vetdino",
        "phantom",
        str(archive),
        "--studies",
        str(STUDIES),
        "--side",
        "64",
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for bucket in (BUCKET, "s3://mlflow"):
        files, path = filesystem(bucket)
        files.mkdir(path)
    sources = [*(archive / "dicom").rglob("*.dcm"), archive / "labels.csv"]
    upload(f"{BUCKET}/archive", {path.relative_to(archive).as_posix(): path for path in sources})


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): _sha256(path.read_bytes()) for path in files}


def trained(run: str) -> dict[str, str]:
    """SHA-256 of weights, moments, teacher and backbone at a training's URL, and of its record without the clock."""
    place = f"{BUCKET}/runs/{run}"
    names = [name for name in listing(place) if name.endswith(".safetensors")]
    found = {name: _sha256(read_bytes(f"{place}/{name}") or b"") for name in names}
    record = (read_bytes(f"{place}/metrics.jsonl") or b"").splitlines()
    steps = {line["step"]: line for line in map(json.loads, record)}  # of a step computed again the last
    lines = [{key: value for key, value in line.items() if key not in UNLIKE} for line in steps.values()]
    return found | {"metrics.jsonl": _sha256(json.dumps(lines).encode())}


def sealed(run: str) -> int:
    """The step of a training's newest whole checkpoint; 0 without."""
    seals = [name for name in listing(f"{BUCKET}/runs/{run}/checkpoints") if name.endswith("/seal.json")]
    return max((int(name.split("/")[0].removeprefix("step_")) for name in seals), default=0)


def first_workers_host(cluster: Cluster, run: str) -> Host:
    """The host that has checkpoints of a training on its own disk. Raises StepError where none has."""
    for host in HOSTS[1:]:
        cache = Path(cluster.environment(host)["VETDINO_CACHE"])
        if any(cache.glob(f"outputs/*/{run}/checkpoints/step_*")):
            return host
    raise StepError(f"no host has a checkpoint of {run}")


def compared(
    expected: Mapping[str, str], found: Mapping[str, str], lost: str, seconds: float
) -> tuple[str, bool]:
    """What is in one and not in the other, in words; whether that is nothing.

    >>> compared({"a": "1"}, {"a": "2"}, "lost", 61)
    ('1 of 1 files differ (a); lost; job 61 s', False)
    """
    both = sorted(expected.keys() | found.keys())
    unlike = [name for name in both if expected.get(name) != found.get(name)]
    text = (
        f"{len(both)} files equal"
        if not unlike
        else f"{len(unlike)} of {len(both)} files differ ({unlike[0]})"
    )
    return f"{text}; {lost}; job {seconds:.0f} s", bool(both) and not unlike


def runs_of(cluster: Cluster, experiment: str) -> list[dict[str, Any]]:
    """The runs of an experiment, as MLflow's REST API gives them."""
    api = f"{cluster.tracking}/api/2.0/mlflow"
    number = cluster.get(f"{api}/experiments/get-by-name?experiment_name={experiment}")["experiment"][
        "experiment_id"
    ]
    return cluster.get(f"{api}/runs/search", body={"experiment_ids": [number], "max_results": 100}).get(
        "runs", []
    )


def resumed_after(cluster: Cluster, run: str) -> list[int]:
    """The steps after which a training was continued, by the child runs in MLflow."""
    known = json.loads(read_bytes(f"{BUCKET}/runs/{run}/run.json") or b"{}")
    steps = []
    for found in runs_of(cluster, "vetdino/pretrain"):
        tags = {tag["key"]: tag["value"] for tag in found["data"].get("tags", ())}
        if tags.get("mlflow.parentRunId") == known.get("run_id"):
            steps.append(int(tags["resumed_after_step"]))
    return sorted(steps)


def _steps_text(before: int, steps: list[int]) -> str:
    return f"step {', '.join(map(str, steps)) or 'unknown'}; {before} was there before"


def last_json(output: str) -> Any:
    """The last line of an output that is a JSON object.

    >>> last_json('starting\\n{"a": 1}\\ndone')
    {'a': 1}
    """
    return json.loads([line for line in output.splitlines() if line.startswith("{")][-1])


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
