"""How good backbones are, beside each other and beside floors: random weights, raw pixels, PCA of pixels.

Every task asks every source on the same shards. The figures become tables for the terminal, files in the output
folder and runs in MLflow.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path

from ..platform.core.config import atomic_write, digest, flat, to_json
from ..platform.core.errors import ConfigError
from ..platform.core.progress import Progress
from ..platform.core.runs import Run, open_run, tracking_address
from ..platform.data.shards import load_manifest
from ..platform.measure.features import Descriptor
from ..platform.measure.metrics import Answers, Figure, Measured, figures_of
from ..platform.measure.predictions import answers_file, save_answers
from ..platform.models.weights import asked_of
from .common.sources import Source, SourceConfig, Sources
from .findings.finetune import FinetuneConfig
from .findings.knn import KnnConfig, knn
from .findings.linear import LinearConfig, linear
from .results import Report, show
from .views.consistency import ConsistencyConfig
from .views.synthesis import SynthesisConfig

FLOORS = ("random", "pixels", "pca")
"""Names of the sources that stand beside every backbone."""

WEIGHTS = (".pth", ".pt", ".safetensors")
"""How the names of weights files end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Which tasks, and how they are measured."""

    tasks: tuple[str, ...] = ("knn",)
    """Names of tasks: knn, linear, finetune, consistency, synthesis."""
    fractions: tuple[float, ...] = (0.01, 0.1, 1.0)
    """Shares of the train patients that knn and linear learn from, each a part of the larger ones."""
    resamples: int = 1000
    """Bootstrap resamples of patients behind each interval."""
    seed: int = 0
    """Of the random backbone, the few patients and the bootstrap."""
    sources: SourceConfig = field(default_factory=SourceConfig)
    """How features are taken."""
    knn: KnnConfig = field(default_factory=KnnConfig)
    """How neighbours vote."""
    linear: LinearConfig = field(default_factory=LinearConfig)
    """How the linear probe is fitted."""
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    """How backbones are fine-tuned."""
    consistency: ConsistencyConfig = field(default_factory=ConsistencyConfig)
    """How views are held against one another."""
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    """How one view is decoded from another."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a task is told beside the source."""

    shards: str | Path
    out: Path
    config: EvaluateConfig


def _knn(source: Source, work: Work, fraction: float) -> Answers:
    config = work.config
    return knn(source.features(level=config.knn.level), config.knn, fraction, config.seed)


def _linear(source: Source, work: Work, fraction: float) -> Answers:
    return linear(source, work.config.linear, fraction, work.config.seed)


def _finetune(source: Source, work: Work, _: float) -> Answers:
    from .findings.finetune import finetune

    return finetune(source, work.shards, replace(work.config.finetune, seed=work.config.seed), work.out)


def _consistency(source: Source, work: Work, _: float) -> Measured:
    from .views.consistency import consistency

    config = work.config
    return consistency(source, work.shards, config.consistency, resamples=config.resamples, seed=config.seed)


def _synthesis(source: Source, work: Work, _: float) -> Measured:
    from .views.synthesis import synthesis

    config = work.config
    return synthesis(source, work.shards, config.synthesis, resamples=config.resamples, seed=config.seed)


@dataclass(frozen=True, slots=True)
class Task:
    """A question to every source.

    ask: (source, work, fraction of the train patients) -> answers, or what was measured. needs: the
    descriptors that it will ask a source for. by_fraction: whether few labels are tried. floors: whether
    sources without a network can be asked.
    """

    ask: Callable[[Source, Work, float], Answers | Measured]
    needs: Callable[[EvaluateConfig], Sequence[Descriptor]] = lambda _: ()
    by_fraction: bool = False
    floors: bool = True


TASKS: dict[str, Task] = {
    "knn": Task(_knn, lambda config: [Descriptor(level=config.knn.level)], by_fraction=True),
    "linear": Task(
        _linear,
        lambda config: [Descriptor(*pair) for pair in product(config.linear.pools, config.linear.blocks)],
        by_fraction=True,
    ),
    "finetune": Task(_finetune, floors=False),
    "consistency": Task(_consistency, lambda _: [Descriptor(level="view")]),
    "synthesis": Task(_synthesis, floors=False),
}
"""Name -> task."""


def evaluate(
    backbone: str | Path, shards: str | Path, out: str | Path, config: EvaluateConfig | None = None
) -> Report:
    """Measures a backbone on the test split of a folder of shards and leaves everything in `out`.

    Beside it stand the same network at random weights, raw pixels and their PCA. Features are kept in
    out/features and taken again where backbone and shards are the same. Every call is an MLflow run of its
    own. Raises ConfigError for an unknown task, FeaturesError where nothing can be measured.
    """
    config, out = config or EvaluateConfig(), Path(out)
    sources = _sources({"backbone": backbone}, shards, out, config)
    report = measure(sources, Work(shards, out, config))
    (out / "run.json").unlink(missing_ok=True)  # else it would go on with the run of another backbone
    first = sources[0]
    tags = {"backbone": first.digest, "backbone_label": first.label, **_tags(first, config)}
    with open_run(
        out, experiment="vetdino/evaluate", name=first.label, params=flat(config), tags=tags
    ) as run:
        _tell(run, report, Work(shards, out, config), first)
        report = replace(report, link=run.told)
    show(report)
    print(f"MLflow: {report.link}")
    return report


def compare_backbones(
    backbones: Sequence[str | Path], shards: str | Path, out: str | Path, config: EvaluateConfig | None = None
) -> Report:
    """Measures any number of backbones on equal terms, beside the first one's random twin and the floors.

    Differences are those of the first against each other. One MLflow run for all, with a child for each
    source whose metrics bear the names that `evaluate` gives. Raises as `evaluate`.
    """
    config, out = config or EvaluateConfig(), Path(out)
    named = dict(zip(names_of(backbones), backbones, strict=True))
    sources = _sources(named, shards, out, config)
    work = Work(shards, out, config)
    report = measure(sources, work)
    (out / "run.json").unlink(missing_ok=True)
    name = f"{', '.join(named)} and floors"
    how = {"experiment": "vetdino/evaluate", "params": flat(config)}
    with open_run(out, name=name, tags=_tags(sources[0], config), **how) as run:
        _tell(run, report, work)
        for source in sources:
            folder = out / "sources" / source.name
            (folder / "run.json").unlink(missing_ok=True)
            tags = {"backbone": source.digest, "backbone_label": source.label, **_tags(source, config)}
            tags |= {"mlflow.parentRunId": run.run_id} if run.run_id else {}
            with open_run(
                folder, name=source.name, tags=tags, tracking_uri=tracking_address(out), **how
            ) as child:
                _tell(child, report.only(source.name, "backbone"), replace(work, out=folder), source)
        report = replace(report, link=run.told)
    show(report, summary=True)
    print(f"MLflow: {report.link}")
    return report


def names_of(backbones: Sequence[str | Path]) -> list[str]:
    """Short names for columns, files and metrics: the folder of the training, the file, or timm's own name.

    >>> names_of(["runs/mine/backbone", "dino.pth#sha256=" + 64 * "0", "vit_tiny_patch16_224", "old/mine/backbone"])
    ['mine', 'dino', 'vit_tiny_patch16_224', 'mine-2']
    """
    names: list[str] = []
    for path in (Path(asked_of(source)[0]) for source in backbones):
        telling = [part for part in path.parts if part not in ("backbone", "..", path.anchor)]
        whole = path.stem if path.suffix in WEIGHTS else (telling or ["backbone"])[-1]
        plain = re.sub(r"[^\w\-]", "_", whole)
        alike = [name for name in (*FLOORS, *names) if re.fullmatch(rf"{re.escape(plain)}(-\d+)?", name)]
        names.append(f"{plain}-{len(alike) + 1}" if alike else plain)
    return names


def _sources(
    backbones: Mapping[str, str | Path], shards: str | Path, out: Path, config: EvaluateConfig
) -> list[Source]:
    """The backbones by name, then the first one's random twin and the floors."""
    for name in config.tasks:
        if name not in TASKS:
            raise ConfigError(f"unknown task '{name}'; there are: {', '.join(TASKS)}")
    if not backbones or not config.tasks or not config.fractions:
        raise ConfigError("nothing to measure; give a backbone, a task and a fraction at least")
    asked = dict.fromkeys(one for name in config.tasks for one in TASKS[name].needs(config))
    make = Sources(shards, out / "features", config.sources, tuple(asked))
    found = [make.backbone(name, origin) for name, origin in backbones.items()]
    return [*found, make.random("random", found[0], config.seed), make.pixels(), make.pca()]


def measure(sources: Sequence[Source], work: Work) -> Report:
    """Every task asked of every source; the first source is held against the others."""
    report = Report(
        labels={one.name: one.label for one in sources}, digests={one.name: one.digest for one in sources}
    )
    for name in work.config.tasks:
        task = TASKS[name]
        asked = [source for source in sources if task.floors or source.backbone is not None]
        unasked = {one.name: "has no network" for one in sources if one not in asked}
        for fraction in sorted(set(work.config.fractions), reverse=True) if task.by_fraction else (1.0,):
            title = name if fraction == 1 else f"{name}_{100 * fraction:g}pct"
            found = {}
            with Progress(title, len(asked), unit="sources") as progress:
                for source in asked:
                    found[source.name] = task.ask(source, work, fraction)
                    progress.advance()
            report = report.with_task(title, found, unasked, _figures(found, fraction, work.config))
    return report


def _figures(
    found: Mapping[str, Answers | Measured], fraction: float, config: EvaluateConfig
) -> list[Figure]:
    if any(isinstance(one, Measured) for one in found.values()):
        return [figure for one in found.values() for figure in one.figures]
    few = fraction < 1 and not any(one.findings for one in found.values())
    return (
        [] if few else figures_of(found, config.resamples, config.seed)
    )  # where few are too few, it is told


def _tags(source: Source, config: EvaluateConfig) -> dict[str, str | int]:
    return {"manifest": source.manifest, "config": digest(config), "seed": config.seed}


def _tell(run: Run, report: Report, work: Work, source: Source | None = None) -> None:
    """Writes metrics.json, config.json, answers, pictures and a CSV per task into the work's folder, and tells
    MLflow; `source` is what the run is about, none where it is about several."""
    values = dict(report.pairs())
    manifest = load_manifest(work.shards)
    whole = {
        "backbone": next(iter(report.digests.values())),
        "manifest": manifest.digest,
        "sources": {
            name: {"digest": report.digests[name], "label": label} for name, label in report.labels.items()
        },
        "metrics": {name: None if math.isnan(value) else value for name, value in values.items()},
        "left_out": report.left_out,
        "facts": report.facts,
    }
    atomic_write(work.out / "metrics.json", json.dumps(whole, indent=1) + "\n")
    atomic_write(work.out / "config.json", to_json(work.config))
    for task, by in report.answers.items():
        for name, answers in by.items() if report.figures[task] else ():
            path = answers_file(work.out, task, name)
            save_answers(path, answers, manifest.digest, report.digests[name])
    run.dataset(manifest.name, manifest.digest, "evaluation", dict(manifest.counts))
    step, model = 0, ""
    if source is not None and source.backbone is not None:
        step = int(source.backbone.card.origin.get("step", 0))
        model = run.evaluates(source.label, source.digest, step)
    if source is None:
        # Children hold the sources' own figures; thousands of charts would hide what only it says.
        values = {name: value for name, value in values.items() if " - " in name}
    run.metrics(step, values, model)
    for task, figures in report.figures.items():
        run.table(task, [asdict(figure) for figure in figures])
    for name, png in report.pictures.items():
        run.figure(name, png)
