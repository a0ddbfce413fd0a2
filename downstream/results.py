"""The report of an evaluation: its metric values by task, and its tables on the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from ..platform.measure.predictions import Predictions
from ..platform.measure.results import Measurements, MetricValue

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

T = TypeVar("T")

Facts = Mapping[str, str | int | float]

SIDE_BY_SIDE = 4
"""With fewer sources, their differences stand in one table with their values."""


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationReport:
    """Metric values by task, and what could not be measured.

    A task on few labels is a task of its own (`linear_10pct`). labels, digests: by source. left_out: task -> row ->
    reason. facts: task -> source -> facts of the measurement. predictions: task -> source -> predictions of findings.
    pictures: file name -> PNG. link: where to look at the MLflow run.
    """

    labels: Mapping[str, str]
    digests: Mapping[str, str]
    values: Mapping[str, Sequence[MetricValue]] = field(default_factory=dict)
    left_out: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, Facts]] = field(default_factory=dict)
    predictions: Mapping[str, Mapping[str, Predictions]] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    link: str = ""

    def with_task(
        self,
        task: str,
        results: Mapping[str, Predictions | Measurements],
        skipped: Mapping[str, str],
        values: Sequence[MetricValue],
    ) -> EvaluationReport:
        """The report with one more task. results: by source; skipped: source -> why it was not measured."""
        predictions = {name: one for name, one in results.items() if isinstance(one, Predictions)}
        measured = [one for one in results.values() if isinstance(one, Measurements)]
        return replace(
            self,
            values={**self.values, task: list(values)},
            left_out={**self.left_out, task: {**_left_out(results), **skipped}},
            facts={**self.facts, task: {name: dict(one.facts) for name, one in results.items()}},
            predictions={**self.predictions, task: predictions} if predictions else self.predictions,
            pictures={
                **self.pictures,
                **{name: png for one in measured for name, png in one.pictures.items()},
            },
        )

    def only(self, source: str, name: str) -> EvaluationReport:
        """The results of one source, under another name, as if it had been evaluated alone."""

        def renamed(by_task: Mapping[str, Mapping[str, T]]) -> dict[str, dict[str, T]]:
            return {task: {name: by[source]} for task, by in by_task.items() if source in by}

        return replace(
            self,
            labels={name: self.labels[source]},
            digests={name: self.digests[source]},
            values={
                task: [replace(one, source=name) for one in values if one.source == source]
                for task, values in self.values.items()
            },
            facts=renamed(self.facts),
            predictions=renamed(self.predictions),
            pictures={},
        )

    def pairs(self) -> Iterator[tuple[str, float]]:
        """(name, value), such as ('knn/auroc.macro.backbone', 0.83); `.low` and `.high` are its 95 % interval."""
        for task, values in self.values.items():
            for value in values:
                name = f"{task}/{value.metric.lower()}.{value.finding}.{value.source}"
                yield name, value.value
                yield f"{name}.low", value.low
                yield f"{name}.high", value.high

    def find(self, task: str, metric: str, finding: str, source: str) -> MetricValue:
        """One value. Raises KeyError where it was not measured."""
        for value in self.values[task]:
            if (value.metric, value.finding, value.source) == (metric, finding, source):
                return value
        raise KeyError((task, metric, finding, source))

    def __repr__(self) -> str:
        counts = ", ".join(f"{task}: {len(values)} values" for task, values in self.values.items())
        return f"EvaluationReport({counts})"


def _left_out(results: Mapping[str, Predictions | Measurements]) -> dict[str, str]:
    """row -> reason; with the source's name where the sources differ."""
    by_source = {source: dict(one.left_out) for source, one in results.items()}
    reasons = {}
    for source, rows in by_source.items():
        for row, reason in rows.items():
            same = all(others.get(row) == reason for others in by_source.values())
            reasons[row if same else f"{row}, {source}"] = reason
    return reasons


def report_tables(report: EvaluationReport, overview: bool = False) -> Iterator[RenderableType]:
    """The values with 95 % intervals, as tables and lines for the terminal.

    Tasks that predict findings have a table for each metric, with a row for each finding; other tasks have one table,
    with a row for each thing measured. Tasks on few labels are the columns of one table of macro AUROC. `overview`
    adds one table of all sources and the other tasks.
    """
    from rich.text import Text

    few_labels = [task for task in report.values if "pct" in task]
    for task, values in report.values.items():
        if task not in few_labels:
            yield from _task_tables(task, values, report)
            for source, facts in report.facts[task].items():
                line = ", ".join(f"{key} {value}" for key, value in facts.items())
                yield Text(f"{source}: {line}", style="dim")
        for row, reason in report.left_out[task].items():
            yield f"left out of {task}: {row} ({reason})"
    if few_labels:
        yield _macro_table("few labels, macro AUROC", few_labels, report)
    if overview and (tasks := [task for task in report.predictions if task not in few_labels]):
        title = "all, macro AUROC and how much the first is better"
        yield _macro_table(title, tasks, report, differences=True)


def _task_tables(task: str, values: Sequence[MetricValue], report: EvaluationReport) -> Iterator[Table]:
    if task not in report.predictions:
        yield _table(task, ("row", "metric"), values, lambda value: (value.finding, value.metric))
        return
    facts: Facts = next(iter(report.facts[task].values()), {})
    counts = f"{facts.get('test_studies', '?')} test studies of {facts.get('test_patients', '?')} patients"
    label = next(iter(report.labels.values()))
    for metric in dict.fromkeys(value.metric for value in values):
        chosen = [value for value in values if value.metric == metric]
        alone = [value for value in chosen if " - " not in value.source]
        differences = [value for value in chosen if " - " in value.source]
        parts = [chosen] if len(report.labels) < SIDE_BY_SIDE else [alone, differences]
        for number, part in enumerate(part for part in parts if part):
            title = f"{task} {metric}, {label}, {counts}" + ", differences" * (number > 0)
            yield _table(title, ("finding",), part, lambda value: (value.finding,))


def _table(
    title: str,
    heads: Sequence[str],
    values: Sequence[MetricValue],
    row_of: Callable[[MetricValue], tuple[str, ...]],
) -> Table:
    """A row for each `row_of` a value, with the number of labels (or items) behind it; a column for each source."""
    from rich.table import Table

    sources = list(dict.fromkeys(value.source for value in values))
    cells = {(row_of(value), value.source): value for value in values}
    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head, no_wrap=True)
    for head in ("present", *sources):
        table.add_column(head, justify="right", no_wrap=True)
    for row in dict.fromkeys(map(row_of, values)):
        line = [cells.get((row, source)) for source in sources]
        first = next(value for value in line if value is not None)
        texts = ("" if value is None else cell(value) for value in line)
        table.add_row(*row, f"{first.present} of {first.known}", *texts, end_section=row[0] == "macro")
    return table


def _macro_table(
    title: str, tasks: Sequence[str], report: EvaluationReport, differences: bool = False
) -> Table:
    """Macro AUROC: a row for each source, a column for each task, and by how much the first source is better."""
    from rich.table import Table

    first = next(iter(report.labels))
    table = Table(title=title, title_justify="left")
    table.add_column("source", no_wrap=True)
    for task in tasks:
        table.add_column(task, justify="right")
        if differences:
            table.add_column(f"{first} - it", justify="right")
    for source in report.labels:
        cells = []
        for task in tasks:
            for column in (source, f"{first} - {source}") if differences else (source,):
                try:
                    cells.append(cell(report.find(task, "AUROC", "macro", column)))
                except KeyError:
                    cells.append("")
        table.add_row(source, *cells)
    return table


def cell(value: MetricValue) -> str:
    """A value with its interval; a difference has a sign.

    >>> cell(MetricValue("AUROC", "macro", "a - b", 0.1, 0.02, 0.2, 3, 9))
    '+0.100 (+0.020 +0.200)'
    """
    form = "+.3f" if " - " in value.source else ".3f"
    bounds = "no interval" if math.isnan(value.low) else f"{value.low:{form}} {value.high:{form}}"
    return f"{value.value:{form}} ({bounds})"
