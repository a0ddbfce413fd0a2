"""Fine-tuning: all weights of a backbone and a linear head learn the findings of the training studies.

The settings follow the end-to-end fine-tuning of MAE (arXiv 2111.06377, appendix A.1, table 9): AdamW, a learning
rate that decays layer by layer (after BEiT, arXiv 2106.08254), warm-up and cosine, stochastic depth. The epoch
with the highest macro AUROC on the validation split predicts the test split, which is used once.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...platform.core.config import digest
from ...platform.core.device import resolve_device
from ...platform.core.errors import ConfigError
from ...platform.core.files import atomic_write
from ...platform.core.progress import Progress
from ...platform.data.index_file import check_sizes, index_table
from ...platform.data.manifest import load_manifest
from ...platform.data.rows import label_matrix
from ...platform.measure.features import Features
from ...platform.measure.predictions import Predictions
from ...platform.models.backbone import Backbone
from ...platform.models.saving import save_backbone
from ...platform.training.cluster import (
    STAGE,
    WorkerConfig,
    WorkerContext,
    report_stage,
    run_on_ray,
    watch_status,
)
from .config import FinetuneConfig
from .protocol import TaskSplits, patient_folds, task_splits
from .tuning import RESULT, START, FinetuneJob, ReportProgress, load_progress, train

if TYPE_CHECKING:
    from ..common.sources import Source

STATUS = "status.json"
"""In a fine-tuning's folder: progress, written by the first Ray worker."""

RESTARTS = 3
"""How often lost Ray workers are restarted; they go on from the newest epoch."""


def finetune(source: Source, shards: str | Path, config: FinetuneConfig, out: Path) -> Predictions:
    """Logits of the test split from the source's backbone, fine-tuned on the training split.

    Works in `out`/finetune, in a folder for each (settings, backbone, shards): interrupted, it goes on from the newest
    epoch; finished, it reads its result. Findings without both classes in train and in test are named in `left_out`.
    Without a validation split, a fifth of the training patients chooses the epoch.

    Raises ConfigError for a source without a backbone or settings out of range, FeaturesError where train or test is
    empty or shares a patient with another split, TrainingError for a non-finite loss or lost workers.
    """
    config.check()
    if source.backbone is None:
        raise ConfigError(f"{source.name} has no backbone to fine-tune; leave it out of the task finetune")
    splits = labeled_splits(shards, config)
    test = splits.test
    if not test.findings:
        return Predictions((), tuple(test.patients), test.labels, test.labels, splits.left_out)
    folder = Path(out).resolve() / "finetune" / _folder_name(source, splits, config)
    if not (folder / RESULT).exists():
        # Ray's workers have another working directory.
        address = str(shards) if "://" in str(shards) else str(Path(shards).resolve())
        chosen_on = "val" if load_manifest(shards).studies("val") else "a fifth of the training patients"
        _run(FinetuneJob(address, folder, config, splits, chosen_on), source.name, source.backbone)
    result = json.loads((folder / RESULT).read_text())
    return Predictions(
        findings=test.findings,
        patients=tuple(test.patients),
        truth=test.labels,
        scores=np.array(result["scores"], np.float32),
        left_out=splits.left_out,
        facts=result["facts"],
    )


def _run(job: FinetuneJob, name: str, backbone: Backbone) -> None:
    """Train in this process or on Ray; of the job's folder, the result alone remains."""
    config, folder = job.config, job.folder
    if job.batch < config.workers:
        raise ConfigError(
            f"finetune.workers {config.workers} are more than the {job.batch} training studies; lower them"
        )
    save_backbone(folder / START, backbone)
    left = job.studies_left(load_progress(folder)["epochs"])
    with Progress(f"finetune {name}", total=left) as progress:

        def report(studies: int, metrics: Mapping[str, float]) -> None:
            progress.advance(max(0, studies - progress.done), **metrics)

        if config.workers:
            _train_on_ray(job, report, progress.stage)
        else:
            train(job, WorkerContext(0, 1, resolve_device(config.device, "finetune.device")), report)
        progress.total = progress.done  # it may have stopped early
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != RESULT:
            path.unlink()


def _folder_name(source: Source, splits: TaskSplits, config: FinetuneConfig) -> str:
    """A digest of all that decides the result; where it trains does not."""
    settings = digest(replace(config, workers=1, device="auto", threads=1))
    return blake2b(f"{source.digest} {splits.test.manifest} {settings}".encode(), digest_size=8).hexdigest()


def labeled_splits(shards: str | Path, config: FinetuneConfig) -> TaskSplits:
    """The labels of each split, without vectors; training studies without any known label are left out.

    Raises FeaturesError as `task_splits` does.
    """
    table = label_table(shards)
    if not load_manifest(shards).studies("val"):
        table = with_validation(table, config.seed)
    splits = task_splits(table, config.fraction, config.seed)
    labeled = np.flatnonzero(~np.isnan(splits.train.labels).all(axis=1))
    return replace(splits, train=splits.train.rows(labeled.tolist()))


def label_table(shards: str | Path) -> Features:
    """The labels of all studies, without vectors. Raises ShardError where shards are missing or cut."""
    manifest = load_manifest(shards)
    check_sizes(shards, manifest.shards)
    rows = index_table(shards, manifest)
    return Features(
        keys=tuple(rows["key"].to_pylist()),
        patients=tuple(rows["patient"].to_pylist()),
        splits=tuple(rows["split"].to_pylist()),
        views=("",) * len(rows),
        vectors=np.empty((len(rows), 0), np.float32),
        findings=manifest.findings,
        labels=label_matrix(rows, manifest.findings),
        backbone="",
        manifest=manifest.digest,
    )


def with_validation(table: Features, seed: int) -> Features:
    """The table with a fifth of its training patients as the validation split; unchanged for fewer than 2 patients."""
    patients = table.of("train").patients
    if len(set(patients)) < 2:
        return table
    fold_of = dict(zip(patients, patient_folds(patients, 5, seed), strict=True))
    splits = [
        "val" if split == "train" and fold_of[patient] == 0 else split
        for split, patient in zip(table.splits, table.patients, strict=True)
    ]
    return replace(table, splits=tuple(splits))


def _train_on_ray(job: FinetuneJob, report: ReportProgress, on_stage: Callable[[str], None]) -> None:
    """Train on Ray's workers; report what the first writes into the status file. on_stage: see `run_on_ray`."""
    status = job.folder / STATUS
    status.unlink(missing_ok=True)

    def forward(written: Mapping[str, Any]) -> None:
        if STAGE in written:
            on_stage(written[STAGE])
        elif written:
            on_stage("")
            metrics = {name: value for name, value in written.items() if name != "shown"}
            report(int(written["shown"]), metrics)

    workers = WorkerConfig(workers=job.config.workers, device=job.config.device, restarts=RESTARTS)
    with watch_status(status, forward):
        advice = "run the same command again to go on"
        run_on_ray(_train_worker, job, workers, job.folder, lambda: advice, on_stage)


def _train_worker(job: FinetuneJob, place: WorkerContext) -> None:
    """What each Ray worker runs."""
    report_stage(job.folder / STATUS, place, "loading the network and the first epoch's studies")
    last_report = 0.0

    def report(studies: int, metrics: Mapping[str, float]) -> None:
        nonlocal last_report
        if time.monotonic() - last_report > 0.5:
            atomic_write(job.folder / STATUS, json.dumps({"shown": studies, **metrics}))
            last_report = time.monotonic()

    train(job, place, report)
