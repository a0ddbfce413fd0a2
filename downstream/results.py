"""The report of an evaluation: its figures by task, and its tables on the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from ..platform.measure.metrics import Answers, Figure, Measured

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

T = TypeVar("T")

Facts = Mapping[str, str | int | float]

SIDE_BY_SIDE = 4
"""With fewer sources, their differences stand in one table with their values."""


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationReport:
    """Figures by task, and what could not be measured. A task on few labels is a task of its own (`linear_10pct`).

    labels, digests: by source. left_out: task -> row -> reason. facts: task -> source -> facts of the measurement.
    answers: task -> source -> answers. pictures: file name -> PNG. link: where to look at the MLflow run.
    """

    labels: Mapping[str, str]
    digests: Mapping[str, str]
    figures: Mapping[str, Sequence[Figure]] = field(default_factory=dict)
    left_out: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, Facts]] = field(default_factory=dict)
    answers: Mapping[str, Mapping[str, Answers]] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    link: str = ""

    def with_task(
        self,
        task: str,
        results: Mapping[str, Answers | Measured],
        skipped: Mapping[str, str],
        figures: Sequence[Figure],
    ) -> EvaluationReport:
        """The report with one more task. results: by source; skipped: source -> why it was not measured."""
        answers = {name: one for name, one in results.items() if isinstance(one, Answers)}
        measured = [one for one in results.values() if isinstance(one, Measured)]
        return replace(
            self,
            figures={**self.figures, task: list(figures)},
            left_out={**self.left_out, task: {**_left_out(results), **skipped}},
            facts={**self.facts, task: {name: dict(one.facts) for name, one in results.items()}},
            answers={**self.answers, task: answers} if answers else self.answers,
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
            figures={
                task: [replace(one, source=name) for one in figures if one.source == source]
                for task, figures in self.figures.items()
            },
            facts=renamed(self.facts),
            answers=renamed(self.answers),
            pictures={},
        )

    def pairs(self) -> Iterator[tuple[str, float]]:
        """(name, value), such as ('knn/auroc.macro.backbone', 0.83); `.low` and `.high` are its 95 % interval."""
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
        counts = ", ".join(f"{task}: {len(figures)} figures" for task, figures in self.figures.items())
        return f"EvaluationReport({counts})"


def _left_out(results: Mapping[str, Answers | Measured]) -> dict[str, str]:
    """row -> reason; with the source's name where the sources differ."""
    by_source = {source: dict(one.left_out) for source, one in results.items()}
    reasons = {}
    for source, rows in by_source.items():
        for row, reason in rows.items():
            same = all(others.get(row) == reason for others in by_source.values())
            reasons[row if same else f"{row}, {source}"] = reason
    return reasons


def report_tables(report: EvaluationReport, overview: bool = False) -> Iterator[RenderableType]:
    """The figures with 95 % intervals, as tables and lines for the terminal.

    Tasks that predict findings have a table for each metric, with a row for each finding; other tasks have one table,
    with a row for each thing measured. Tasks on few labels are the columns of one table of macro AUROC. `overview`
    adds one table of all sources and the other tasks.
    """
    from rich.text import Text

    few_labels = [task for task in report.figures if "pct" in task]
    for task, figures in report.figures.items():
        if task not in few_labels:
            yield from _task_tables(task, figures, report)
            for source, facts in report.facts[task].items():
                line = ", ".join(f"{key} {value}" for key, value in facts.items())
                yield Text(f"{source}: {line}", style="dim")
        for row, reason in report.left_out[task].items():
            yield f"left out of {task}: {row} ({reason})"
    if few_labels:
        yield _macro_table("few labels, macro AUROC", few_labels, report)
    if overview and (tasks := [task for task in report.answers if task not in few_labels]):
        title = "all, macro AUROC and how much the first is better"
        yield _macro_table(title, tasks, report, differences=True)


def _task_tables(task: str, figures: Sequence[Figure], report: EvaluationReport) -> Iterator[Table]:
    if task not in report.answers:
        yield _table(task, ("row", "metric"), figures, lambda figure: (figure.finding, figure.metric))
        return
    facts: Facts = next(iter(report.facts[task].values()), {})
    counts = f"{facts.get('test_studies', '?')} test studies of {facts.get('test_patients', '?')} patients"
    label = next(iter(report.labels.values()))
    for metric in dict.fromkeys(figure.metric for figure in figures):
        chosen = [figure for figure in figures if figure.metric == metric]
        values = [figure for figure in chosen if " - " not in figure.source]
        differences = [figure for figure in chosen if " - " in figure.source]
        parts = [chosen] if len(report.labels) < SIDE_BY_SIDE else [values, differences]
        for number, part in enumerate(part for part in parts if part):
            title = f"{task} {metric}, {label}, {counts}" + ", differences" * (number > 0)
            yield _table(title, ("finding",), part, lambda figure: (figure.finding,))


def _table(
    title: str, heads: Sequence[str], figures: Sequence[Figure], row_of: Callable[[Figure], tuple[str, ...]]
) -> Table:
    """A row for each `row_of` a figure, with the number of labels (or items) behind it; a column for each source."""
    from rich.table import Table

    sources = list(dict.fromkeys(figure.source for figure in figures))
    cells = {(row_of(figure), figure.source): figure for figure in figures}
    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head, no_wrap=True)
    for head in ("present", *sources):
        table.add_column(head, justify="right", no_wrap=True)
    for row in dict.fromkeys(map(row_of, figures)):
        line = [cells.get((row, source)) for source in sources]
        first = next(figure for figure in line if figure is not None)
        values = ("" if figure is None else cell(figure) for figure in line)
        table.add_row(*row, f"{first.present} of {first.known}", *values, end_section=row[0] == "macro")
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


def cell(figure: Figure) -> str:
    """A value with its interval; a difference has a sign.

    >>> cell(Figure("AUROC", "macro", "a - b", 0.1, 0.02, 0.2, 3, 9))
    '+0.100 (+0.020 +0.200)'
    """
    form = "+.3f" if " - " in figure.source else ".3f"
    bounds = "no interval" if math.isnan(figure.low) else f"{figure.low:{form}} {figure.high:{form}}"
    return f"{figure.value:{form}} ({bounds})"
