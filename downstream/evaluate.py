"""How good a backbone is, beside two floors: the same network at random weights, and the raw pixels.

Every task answers for all three from the same shards; the figures become a table for the terminal, files in
the output folder and one MLflow run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..platform.config import atomic_write, digest, flat, to_json
from ..platform.errors import ConfigError, FeaturesError
from ..platform.features import Features, extract, load_features, pixel_features, save_features
from ..platform.metrics import Answers, Figure, figures_of
from ..platform.runs import open_run
from .knn import KnnConfig, knn

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Which tasks, and how they are measured."""

    tasks: tuple[str, ...] = ("knn",)
    """Names of tasks: knn."""
    knn: KnnConfig = field(default_factory=KnnConfig)
    """How neighbours vote."""
    resamples: int = 1000
    """Bootstrap resamples of patients behind each interval."""
    seed: int = 0
    """Of the random backbone and of the bootstrap."""
    pixel_side: int = 32
    """Side to which views are reduced for the raw-pixel floor, in pixels."""
    batch: int = 64
    """Views for each pass through a backbone."""
    workers: int = 2
    """Threads that decode views."""


Task = Callable[[Features, EvaluateConfig], Answers]

TASKS: dict[str, Task] = {"knn": lambda features, config: knn(features, config.knn)}
"""Task name -> what answers for the test split from the features of all splits."""


@dataclass(frozen=True, slots=True)
class Report:
    """What an evaluation found: figures by task, and what could not be measured.

    Its pairs are what console, MLflow and tests read.
    """

    figures: Mapping[str, Sequence[Figure]]
    left_out: Mapping[str, Mapping[str, str]]
    facts: Mapping[str, Mapping[str, Mapping[str, str | int | float]]]
    link: str = ""
    """How to look at the run in MLflow."""

    def pairs(self) -> Iterator[tuple[str, float]]:
        """(name, value), such as ('knn/auroc.macro.backbone', 0.83); `.low` and `.high` bound it."""
        for task, figures in self.figures.items():
            for figure in figures:
                name = f"{task}/{figure.metric.lower()}.{figure.finding}.{figure.source}"
                yield name, figure.value
                yield f"{name}.low", figure.low
                yield f"{name}.high", figure.high

    def find(self, task: str, metric: str, finding: str, source: str) -> Figure:
        """One figure. Raises KeyError where it was not measured."""
        for figure in self.figures[task]:
            if (figure.metric, figure.finding, figure.source) == (metric, finding, source):
                return figure
        raise KeyError((task, metric, finding, source))

    def __repr__(self) -> str:
        return f"Report({', '.join(f'{task}: {len(rows)} figures' for task, rows in self.figures.items())})"


def evaluate(
    backbone: str | Path, shards: str | Path, out: str | Path, config: EvaluateConfig | None = None
) -> Report:
    """Measures a backbone on the test split of a folder of shards and leaves everything in `out`.

    Features are kept in out/features and taken again where backbone and shards are the same. Every call is
    an MLflow run of its own. Raises ConfigError for an unknown task, FeaturesError where nothing can be
    measured.
    """
    config = config or EvaluateConfig()
    out = Path(out)
    for name in config.tasks:
        if name not in TASKS:
            raise ConfigError(f"unknown task '{name}'; there are: {', '.join(TASKS)}")
    sources, label = _sources(backbone, shards, out / "features", config)
    answers = {
        task: {name: TASKS[task](features, config) for name, features in sources.items()}
        for task in config.tasks
    }
    report = Report(
        figures={task: figures_of(by, config.resamples, config.seed) for task, by in answers.items()},
        left_out={task: dict(by["backbone"].left_out) for task, by in answers.items()},
        facts={task: {name: dict(one.facts) for name, one in by.items()} for task, by in answers.items()},
    )
    link = _record(report, sources["backbone"], label, out, config)
    show(report, label)
    print(f"MLflow: {link}")
    return replace(report, link=link)


def show(report: Report, label: str) -> None:
    """Prints a table per metric: rows are findings, columns sources and differences with 95 % intervals."""
    from rich.console import Console

    console = Console()
    # A pipe has no width of its own, and rich would fold the table at 80 columns.
    console = console if console.is_terminal else Console(width=160)
    for task, figures in report.figures.items():
        facts = report.facts[task]["backbone"]
        counts = (
            f"{facts.get('test_studies', '?')} test studies of {facts.get('test_patients', '?')} patients"
        )
        for metric in dict.fromkeys(figure.metric for figure in figures):
            console.print(_table(f"{task} {metric}, {label}, {counts}", metric, figures))
        for source, said in report.facts[task].items():
            console.print(
                f"{source}: " + ", ".join(f"{key} {value}" for key, value in said.items()), style="dim"
            )
        for finding, reason in report.left_out[task].items():
            console.print(f"left out: {finding} ({reason})")


def _table(title: str, metric: str, figures: Sequence[Figure]) -> Table:
    from rich.table import Table

    rows = [figure for figure in figures if figure.metric == metric]
    sources = list(dict.fromkeys(figure.source for figure in rows))
    table = Table(title=title, title_justify="left")
    table.add_column("finding")
    table.add_column("present", justify="right")
    for source in sources:
        table.add_column(source, justify="right", no_wrap=True)
    for finding in dict.fromkeys(figure.finding for figure in rows):
        cells = {figure.source: figure for figure in rows if figure.finding == finding}
        count = f"{cells[sources[0]].present} of {cells[sources[0]].known}"
        numbers = (_cell(cells[source]) for source in sources)
        table.add_row(finding, count, *numbers, end_section=finding == "macro")
    return table


def _cell(figure: Figure) -> str:
    """A value with its interval; differences carry a sign, and an interval that cannot be had says so."""
    form = "+.3f" if " - " in figure.source else ".3f"
    bounds = "no interval" if math.isnan(figure.low) else f"{figure.low:{form}} {figure.high:{form}}"
    return f"{figure.value:{form}} ({bounds})"


def _sources(
    source: str | Path, shards: str | Path, folder: Path, config: EvaluateConfig
) -> tuple[dict[str, Features], str]:
    """The features to compare, by name, and what the backbone calls itself."""
    from ..platform.backbone import load, random_like
    from ..platform.shards import load_manifest

    manifest = load_manifest(shards).digest
    backbone = load(source)
    how: dict[str, Any] = {"batch": config.batch, "workers": config.workers}

    def kept(name: str, digest: str, make: Callable[[], Features]) -> Features:
        """The table of an earlier evaluation where it is of the same backbone and shards, else a new one."""
        path = folder / f"{name}.parquet"
        try:
            features = load_features(path)
            if (features.backbone, features.manifest, features.level) == (digest, manifest, "study"):
                return features
        except FeaturesError:
            pass  # none yet, or a damaged one: made anew
        features = make()
        save_features(features, path)
        return features

    floor = random_like(backbone, config.seed)
    side = config.pixel_side
    sources = {
        "backbone": kept(
            "backbone", backbone.card.digest, lambda: extract(backbone, shards, label="backbone", **how)
        ),
        "random": kept("random", floor.card.digest, lambda: extract(floor, shards, label="random", **how)),
        "pixels": kept("pixels", f"pixels-{side}", lambda: pixel_features(shards, side=side, **how)),
    }
    return sources, backbone.card.label


def _record(report: Report, features: Features, label: str, out: Path, config: EvaluateConfig) -> str:
    """Writes metrics.json, config.json and a CSV per task; tells MLflow; gives back where to look."""
    values = {name: value for name, value in report.pairs()}
    whole = {
        "backbone": features.backbone,
        "manifest": features.manifest,
        "metrics": {name: None if math.isnan(value) else value for name, value in values.items()},
        "left_out": report.left_out,
        "facts": report.facts,
    }
    atomic_write(out / "metrics.json", json.dumps(whole, indent=1) + "\n")
    atomic_write(out / "config.json", to_json(config))
    tags = {
        "backbone": features.backbone,
        "backbone_label": label,
        "manifest": features.manifest,
        "config": digest(config),
        "seed": config.seed,
    }
    (out / "run.json").unlink(missing_ok=True)  # else it would go on with the run of another backbone
    with open_run(out, experiment="vetdino/evaluate", name=label, params=flat(config), tags=tags) as run:
        run.metrics(0, values)
        for task, figures in report.figures.items():
            run.table(task, [asdict(figure) for figure in figures])
        return f"{run.view_command}, then {run.link}" if run.view_command else run.link
