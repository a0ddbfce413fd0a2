"""The training as a Ray Train job: settings are checked, workers started, watched, and restarted if one is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..platform.core.config import flat, from_json, to_json
from ..platform.core.errors import ConfigError, StorageError
from ..platform.core.extras import require_extra
from ..platform.core.files import atomic_write
from ..platform.core.gauges import report as report_metric
from ..platform.core.location import Location
from ..platform.core.locks import folder_lock
from ..platform.core.log_lines import job_named, say, warn
from ..platform.core.progress import Progress
from ..platform.core.tracking import create_database, tracking_address
from ..platform.models.source import absolute_source
from ..platform.training import checkpoint
from ..platform.training.cluster import (
    STAGE,
    WorkerConfig,
    WorkerContext,
    read_status,
    run_on_ray,
    watch_status,
)
from .build import check_student
from .checkpoints import check_resumable, checkpoints_folder, trained_config
from .config import FeatureDistillationConfig, PretrainConfig, TrainingConfig
from .data_warnings import data_warnings
from .export import student_side
from .feature_distillation.networks import load_teacher, student_network
from .loop import train
from .mixture import Mixture, check_mixture, load_mixture
from .records import STATUS
from .run_storage import BACKBONE, RunStorage, run_folder
from .start import starting_point

SHOWN = {
    "loss/total": "loss",
    "probe/auroc_macro": "auroc",
    "health/teacher_entropy": "entropy",
    "health/cls_cosine": "cosine",
}
"""Metrics that the progress bar shows, and their names there."""

EXPORTED = {
    "step": "step",
    "steps": "steps",
    "data/studies": "studies",
    "speed/studies_per_second": "studies_per_second",
    "loss/total": "loss",
    "health/teacher_entropy": "teacher_entropy",
    "schedule/lr": "learning_rate",
    "health/bad_steps": "skipped_steps",
    "alarms": "alarms",
    "checkpoint_seconds": "checkpoint_seconds",
    "data_wait": "data_wait",
}
"""What a status holds -> its name for Prometheus, after `vetdino_training_`."""


def pretrain(config: PretrainConfig) -> Path | Location:
    """Train on Ray to the last step; returns the folder of the exported backbone, a Location where `out` is a URL.

    A Ray that already runs is used (`RAY_ADDRESS`, or inside `ray job submit`), else one is started here and
    stopped afterwards. Raises ConfigError before any worker starts if settings contradict each other, a library is
    missing or `out` holds another training, LockError while another run writes to `out`; TrainingError if the workers
    failed more often than `restarts` allows.
    """
    config.check()
    start = absolute_source(config.start) if config.start else ""
    return _run_job(replace(config, start=start), "pretrain")


def distill(config: FeatureDistillationConfig) -> Path | Location:
    """Distill on Ray to the last step; returns the folder of the exported student. All else as `pretrain`."""
    config.check()
    teacher, student = absolute_source(config.teacher), absolute_source(config.student)
    return _run_job(replace(config, teacher=teacher, student=student), "distill")


def _run_job(config: TrainingConfig, command: str) -> Path | Location:
    """Run a training whose settings agree. command: its name on the command line."""
    for library in ("ray", "deepspeed"):
        require_extra(library, "distillation" if command == "distill" else "pretraining")
    shards = tuple(Location(folder).absolute() for folder in config.shards)
    out = Location(config.out).absolute()
    config = replace(config, shards=shards, out=out)
    mixture = load_mixture(config)
    check_mixture(config, mixture)
    storage = RunStorage(config)
    with folder_lock(out, f"vetdino {command}"), job_named(run=out.name):
        storage.recover()
        _prepare_folder(config, mixture)
        storage.push_record()  # workers begin with what is there: these settings, nothing of a training that left none
        create_database(tracking_address(storage.folder))
        workers = WorkerConfig(
            workers=config.workers,
            min_workers=config.min_workers,
            device=config.device,
            threads=config.threads,
            restarts=config.restarts,
        )
        warnings = data_warnings(config, mixture)
        with _progress_bar(config, command, warnings) as on_stage, storage.followed_status():
            argument, advice = to_json(config), partial(_advice, storage)
            work = _distill_worker if command == "distill" else _train_worker
            run_on_ray(work, argument, workers, out, advice, on_stage)
        storage.discard()
    return out.path / BACKBONE if out.is_local else out / BACKBONE


def _train_worker(config: str, worker: WorkerContext) -> None:
    """What each Ray worker of a pretraining runs; config: as JSON."""
    train(from_json(PretrainConfig, config), worker)


def _distill_worker(config: str, worker: WorkerContext) -> None:
    """What each Ray worker of a distillation runs; config: as JSON."""
    train(from_json(FeatureDistillationConfig, config), worker)


def _advice(storage: RunStorage) -> str:
    with suppress(StorageError):
        if storage.has_checkpoint:
            return f"{storage.location} holds a checkpoint: run again with --resume"
    return "run the same command again"


def _prepare_folder(config: TrainingConfig, mixture: Mixture) -> None:
    """Write `config.json` to the run's folder; raises ConfigError or CheckpointError if it holds another training."""
    root, folder = checkpoints_folder(config), run_folder(config)
    newest = checkpoint.newest(root)
    if config.resume and newest is None:
        if any(root.glob("step_*")):
            raise ConfigError(
                f"{config.out}: each of its checkpoints is damaged; copy one again, or choose another --out"
            )
        say(f"{config.out}: holds no checkpoint yet, so the training starts from the beginning")
    if not config.resume and any(root.glob("step_*")):
        raise ConfigError(
            f"{config.out}: holds a training already; add --resume to continue it, or choose another --out"
        )
    if newest is not None:
        check_resumable(config, newest, mixture)
        _announce_resume(config, newest)
    else:
        _check_networks(config)
        # Left by a training that was stopped before its first checkpoint.
        for name in (STATUS, "metrics.jsonl", "run.json"):
            (folder / name).unlink(missing_ok=True)
    atomic_write(folder / "config.json", to_json(config))


def _check_networks(config: TrainingConfig) -> None:
    """Load what a training begins with, so that unknown names and weights that do not fit are reported at once."""
    if isinstance(config, PretrainConfig):
        starting_point(config)
    elif isinstance(config, FeatureDistillationConfig):
        load_teacher(config.teacher, config.crops.global_side, config.teacher_side)
        student = student_network(config.student, config.backbone, config.crops.global_side, config.seed)
        check_student(config, student)
        student_side(config, student)


def _announce_resume(config: TrainingConfig, newest: Path) -> None:
    """Print where a resumed training continues, and which of its settings have changed."""
    step = checkpoint.step_of(newest)
    began = flat(trained_config(newest, type(config)))
    changed = [
        f"{name} {began.get(name)} -> {value}"
        for name, value in flat(config).items()
        if name not in ("resume", "out", "shards") and began.get(name) != value
    ]
    text = f"continues after step {step} of {config.steps}"
    if step == config.steps:
        text = f"all {step} steps are done; give more --steps to go on; its backbone is exported again"
    if changed:
        text += f"; settings that were others at its checkpoint: {', '.join(changed)}"
    say(f"{config.out}: {text}")


@contextmanager
def _progress_bar(
    config: TrainingConfig, command: str, warnings: Sequence[str]
) -> Iterator[Callable[[str], None]]:
    """Within the `with` block: a bar follows the first worker's status file; each warning is printed once.

    warnings: what is known before the first step. Yields the function that shows what is done before the workers say it
    themselves.
    """
    status = run_folder(config) / STATUS
    earlier = read_status(status)
    if earlier.pop(STAGE, None):  # of workers that were killed
        atomic_write(status, json.dumps(earlier))
    began = seen = earlier.get("step", 0)
    printed: set[str] = set()

    def warn_of(texts: Iterable[str]) -> None:
        for text in texts:
            if text not in printed:
                warn(text)
                printed.add(text)

    warn_of(warnings)
    with Progress(command, total=(config.steps - began) * config.batch, unit="studies") as progress:

        def report(values: Mapping[str, Any]) -> None:
            nonlocal seen
            warn_of(values.get("warnings", ()))
            step = max(seen, values.get("step", seen))
            notes = {
                short: round(values[name], 3) for name, short in SHOWN.items() if values.get(name) is not None
            }
            if step > seen or STAGE in values:
                progress.stage(values.get(STAGE, ""))
            if step > seen:
                notes = {"step": step, **notes}
            _export(values, Location(config.out).name)
            progress.advance((step - seen) * config.batch, **notes)
            seen = step

        with watch_status(status, report):
            yield progress.stage


def _export(status: Mapping[str, Any], run: str) -> None:
    """Hand what a status says to Prometheus; again and again, for Ray forgets a gauge that is not set anew."""
    for name, short in EXPORTED.items():
        if status.get(name) is not None:
            report_metric(f"vetdino_training_{short}", float(status[name]), run)
