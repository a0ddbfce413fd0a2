"""Evaluate backbones on the test split, beside baselines: random weights, raw pixels, PCA of pixels.

Every task measures every source on the same shards. The values become tables on the terminal, files in the output
folder, and runs in MLflow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

from ..platform.core.errors import ConfigError
from ..platform.core.progress import Progress
from ..platform.core.tracking import tracking_address
from ..platform.data.manifest import load_manifest
from ..platform.measure.descriptors import Descriptor
from ..platform.measure.predictions import Predictions, predictions_file, save_predictions
from ..platform.measure.results import Measurements, MetricValue, measured_values, metric_values
from .checks import check_evaluation
from .common.record import (
    DatasetUse,
    ExperimentRecord,
    MetricSeries,
    pretraining_step,
    run_tags,
    show_record,
    write_record,
)
from .common.sources import Source, SourceFactory, source_names
from .config import EvaluateConfig
from .findings.knn import knn
from .findings.linear import linear
from .results import EvaluationReport, report_tables

EXPERIMENT = "vetdino/evaluate"
"""MLflow experiment of these runs."""


@dataclass(frozen=True, slots=True)
class EvaluationJob:
    """Where the shards are, where the results go, and the settings."""

    shards: str | Path
    out: Path
    config: EvaluateConfig


def _knn(source: Source, job: EvaluationJob, fraction: float) -> Predictions:
    config = job.config
    return knn(source.features(level=config.knn.level), config.knn, fraction, config.seed, config.device)


def _linear(source: Source, job: EvaluationJob, fraction: float) -> Predictions:
    return linear(source, job.config.linear, fraction, job.config.seed, job.config.device)


def _finetune(source: Source, job: EvaluationJob, _: float) -> Predictions:
    from .findings.finetune import finetune

    return finetune(source, job.shards, replace(job.config.finetune, seed=job.config.seed), job.out)


def _consistency(source: Source, job: EvaluationJob, _: float) -> Measurements:
    from .views.consistency import consistency

    config = job.config
    return consistency(source, job.shards, config.consistency, resamples=config.resamples, seed=config.seed)


def _synthesis(source: Source, job: EvaluationJob, _: float) -> Measurements:
    from .views.synthesis import synthesis

    config = job.config
    return synthesis(source, job.shards, config.synthesis, resamples=config.resamples, seed=config.seed)


@dataclass(frozen=True, slots=True)
class EvaluationTask:
    """One task of an evaluation.

    measure: (source, job, fraction of the train patients) -> predictions of findings, or other measurements.
    descriptors: the features that it will need. by_fraction: whether it is repeated with few labels.
    baselines: whether it measures sources without a network, too.
    """

    measure: Callable[[Source, EvaluationJob, float], Predictions | Measurements]
    descriptors: Callable[[EvaluateConfig], Sequence[Descriptor]] = lambda _: ()
    by_fraction: bool = False
    baselines: bool = True


TASKS: dict[str, EvaluationTask] = {
    "knn": EvaluationTask(_knn, lambda config: [Descriptor(level=config.knn.level)], by_fraction=True),
    "linear": EvaluationTask(
        _linear,
        lambda config: [Descriptor(*pair) for pair in product(config.linear.pools, config.linear.blocks)],
        by_fraction=True,
    ),
    "finetune": EvaluationTask(_finetune, baselines=False),
    "consistency": EvaluationTask(_consistency, lambda _: [Descriptor(level="view")]),
    "synthesis": EvaluationTask(_synthesis, baselines=False),
}
"""Name -> task."""


def evaluate(
    backbone: str | Path, shards: str | Path, out: str | Path, config: EvaluateConfig | None = None
) -> EvaluationReport:
    """Evaluate a backbone on the test split of a folder of shards, beside the baselines; leaves everything in `out`.

    Features are cached in out/features and reused for the same backbone and shards. Every call is a new MLflow run.
    Raises ConfigError for an unknown task, FeaturesError where nothing can be measured.
    """
    job = EvaluationJob(shards, Path(out), config or EvaluateConfig())
    sources = _sources({"backbone": backbone}, job)
    report = measure(sources, job)
    first = sources[0]
    tags = run_tags(job.config, first.manifest, first.digest, first.label)
    return _published(report, _record(report, job, first.label, tags, first), job)


def compare_backbones(
    backbones: Sequence[str | Path], shards: str | Path, out: str | Path, config: EvaluateConfig | None = None
) -> EvaluationReport:
    """Evaluate any number of backbones alike, beside the baselines (the random one is like the first backbone).

    Differences are those of the first against each other. One MLflow run for all, with a child for each
    source whose metrics have the names that `evaluate` gives. Raises as `evaluate`.
    """
    job = EvaluationJob(shards, Path(out), config or EvaluateConfig())
    by_name = dict(zip(source_names(backbones), backbones, strict=True))
    sources = _sources(by_name, job)
    report = measure(sources, job)
    tags = run_tags(job.config, sources[0].manifest)
    record = _record(report, job, f"{', '.join(by_name)} and baselines", tags)
    record = replace(record, terminal=list(report_tables(report, overview=True)))
    return _published(report, record, job, children=sources)


def _published(
    report: EvaluationReport, record: ExperimentRecord, job: EvaluationJob, children: Sequence[Source] = ()
) -> EvaluationReport:
    """The report with its link, after writing it, and one child run for each of the sources, and printing it."""
    run = write_record(record, job.out)
    for source in children:
        child_job = replace(job, out=job.out / "sources" / source.name)
        parent = {"mlflow.parentRunId": run.run_id} if run.run_id else {}
        tags = run_tags(job.config, source.manifest, source.digest, source.label, **parent)
        child = _record(report.only(source.name, "backbone"), child_job, source.name, tags, source)
        write_record(child, child_job.out, tracking_address(job.out))
    show_record(record, run.view_hint)
    return replace(report, link=run.view_hint)


def _sources(backbones: Mapping[str, str | Path], job: EvaluationJob) -> list[Source]:
    """The backbones by name, then the baselines."""
    config = job.config
    for name in config.tasks:
        if name not in TASKS:
            raise ConfigError(f"unknown task '{name}'; there are: {', '.join(TASKS)}")
    if not backbones or not config.tasks or not config.fractions:
        raise ConfigError("nothing to measure; give a backbone, a task and a fraction at least")
    check_evaluation(job.shards, job.out, config)
    planned = dict.fromkeys(one for name in config.tasks for one in TASKS[name].descriptors(config))
    make = SourceFactory(job.shards, job.out / "features", config.sources, tuple(planned), config.device)
    sources = [make.backbone(name, origin) for name, origin in backbones.items()]
    return [*sources, make.random("random", sources[0], config.seed), make.pixels(), make.pca()]


def measure(sources: Sequence[Source], job: EvaluationJob) -> EvaluationReport:
    """Every task on every source; the first source is compared with each other one, on the same patients."""
    report = EvaluationReport(
        labels={one.name: one.label for one in sources}, digests={one.name: one.digest for one in sources}
    )
    for name in job.config.tasks:
        task = TASKS[name]
        measured = [source for source in sources if task.baselines or source.backbone is not None]
        skipped = {one.name: "has no network" for one in sources if one not in measured}
        for fraction in sorted(set(job.config.fractions), reverse=True) if task.by_fraction else (1.0,):
            title = name if fraction == 1 else f"{name}_{100 * fraction:g}pct"
            results = {}
            with Progress(title, len(measured), unit="sources") as progress:
                for source in measured:
                    results[source.name] = task.measure(source, job, fraction)
                    progress.advance()
            report = report.with_task(title, results, skipped, _values(results, fraction, job.config))
    return report


def _values(
    results: Mapping[str, Predictions | Measurements], fraction: float, config: EvaluateConfig
) -> list[MetricValue]:
    predictions = {name: one for name, one in results.items() if isinstance(one, Predictions)}
    if not predictions:
        return measured_values({name: one for name, one in results.items() if isinstance(one, Measurements)})
    if fraction < 1 and not any(one.findings for one in predictions.values()):
        return []  # too few labels for any finding; `left_out` says so
    return metric_values(predictions, config.resamples, config.seed)


def _record(
    report: EvaluationReport,
    job: EvaluationJob,
    name: str,
    tags: Mapping[str, str | int],
    source: Source | None = None,
) -> ExperimentRecord:
    """The record of a report; also writes the predictions behind its values into the job's folder.

    source: the one that the report is about; None: it is about several.
    """
    manifest = load_manifest(job.shards)
    for task, by_source in report.predictions.items():
        for one, predictions in by_source.items() if report.values[task] else ():
            path = predictions_file(job.out, task, one)
            save_predictions(path, predictions, manifest.digest, report.digests[one])
    metrics = dict(report.pairs())
    card = source.backbone.card if source is not None and source.backbone is not None else None
    # Child runs have the sources' own metrics; thousands of charts would hide the differences.
    charted = {key: value for key, value in metrics.items() if source is not None or " - " in key}
    return ExperimentRecord(
        experiment=EXPERIMENT,
        name=name,
        config=job.config,
        tags=tags,
        identity={
            "backbone": next(iter(report.digests.values())),
            "manifest": manifest.digest,
            "sources": {
                one: {"digest": report.digests[one], "label": label} for one, label in report.labels.items()
            },
        },
        metrics=metrics,
        details={"left_out": report.left_out, "facts": report.facts},
        series=[MetricSeries(charted, pretraining_step(card), card)],
        datasets=[DatasetUse(manifest.name, manifest.digest, dict(manifest.counts))],
        tables={task: [asdict(value) for value in values] for task, values in report.values.items()},
        figures=report.pictures,
        attachments=(),
        terminal=list(report_tables(report)),
    )
