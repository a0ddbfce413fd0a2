"""What an evaluation found, and how it is shown on a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..platform.core.progress import tables_console
from ..platform.measure.metrics import Answers, Figure, Measured

if TYPE_CHECKING:
    from rich.table import Table

Facts = Mapping[str, str | int | float]

SIDE_BY_SIDE = 4
"""Most sources whose differences stand in one table with them."""


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What an evaluation found: figures by task, and what could not be measured.

    Its pairs are what console, MLflow and tests read. A task on few labels is one of its own (`linear_10pct`).
    left_out: task -> row -> why. facts: task -> source -> what it took. answers: task -> source -> answers.
    """

    labels: Mapping[str, str]
    digests: Mapping[str, str]
    figures: Mapping[str, Sequence[Figure]] = field(default_factory=dict)
    left_out: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, Facts]] = field(default_factory=dict)
    answers: Mapping[str, Mapping[str, Answers]] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    link: str = ""
    """How to look at the run in MLflow."""

    def with_task(
        self,
        task: str,
        found: Mapping[str, Answers | Measured],
        unasked: Mapping[str, str],
        figures: Sequence[Figure],
    ) -> Report:
        """The report with one task more. found: by source; unasked: source -> why it was not asked."""
        answers = {name: one for name, one in found.items() if isinstance(one, Answers)}
        pictures = [one.pictures for one in found.values() if isinstance(one, Measured)]
        return replace(
            self,
            figures={**self.figures, task: list(figures)},
            left_out={**self.left_out, task: {**_left_out(found), **unasked}},
            facts={**self.facts, task: {name: dict(one.facts) for name, one in found.items()}},
            answers={**self.answers, task: answers} if answers else self.answers,
            pictures={**self.pictures, **{name: png for part in pictures for name, png in part.items()}},
        )

    def only(self, source: str, name: str) -> Report:
        """What concerns one source, under another name, as if it had been measured alone."""
        own = lambda by: {task: {name: told[source]} for task, told in by.items() if source in told}
        return replace(
            self,
            labels={name: self.labels[source]},
            digests={name: self.digests[source]},
            figures={
                task: [replace(one, source=name) for one in figures if one.source == source]
                for task, figures in self.figures.items()
            },
            facts=own(self.facts),
            answers=own(self.answers),
            pictures={},
        )

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


def _left_out(found: Mapping[str, Answers | Measured]) -> dict[str, str]:
    """row -> reason; with the source's name where not all sources say so."""
    told = {source: dict(one.left_out) for source, one in found.items()}
    reasons = {}
    for source, rows in told.items():
        for row, reason in rows.items():
            alike = all(others.get(row) == reason for others in told.values())
            reasons[row if alike else f"{row}, {source}"] = reason
    return reasons


def show(report: Report, summary: bool = False) -> None:
    """Prints the figures with 95 % intervals.

    Tasks of answers have a table per metric, rows are findings; other tasks one table, rows are what was
    measured. Tasks on few labels are columns of one table of macro AUROC. `summary` adds one table of all
    sources on the other tasks.
    """
    console = tables_console()
    few = [task for task in report.figures if "pct" in task]
    for task, figures in report.figures.items():
        if task not in few:
            for table in _tables(task, figures, report):
                console.print(table)
            for source, said in report.facts[task].items():
                line = ", ".join(f"{key} {value}" for key, value in said.items())
                console.print(f"{source}: {line}", style="dim")
        for row, reason in report.left_out[task].items():
            console.print(f"left out of {task}: {row} ({reason})")
    if few:
        console.print(_by_source("few labels, macro AUROC", few, report))
    if summary and (macro := [task for task in report.answers if task not in few]):
        console.print(
            _by_source("all, macro AUROC and what the first is better by", macro, report, gains=True)
        )


def _tables(task: str, figures: Sequence[Figure], report: Report) -> Iterator[Table]:
    if task not in report.answers:
        rows = dict.fromkeys((figure.finding, figure.metric) for figure in figures)
        yield _table(task, ("row", "metric"), rows, figures, lambda one: (one.finding, one.metric))
        return
    facts = next(iter(report.facts[task].values()), {})
    counts = f"{facts.get('test_studies', '?')} test studies of {facts.get('test_patients', '?')} patients"
    label = next(iter(report.labels.values()))
    for metric in dict.fromkeys(figure.metric for figure in figures):
        told = [figure for figure in figures if figure.metric == metric]
        rows = dict.fromkeys(figure.finding for figure in told)
        values = [figure for figure in told if " - " not in figure.source]
        gains = [figure for figure in told if " - " in figure.source]
        parts = [told] if len(report.labels) < SIDE_BY_SIDE else [values, gains]
        for number, part in enumerate(part for part in parts if part):
            title = f"{task} {metric}, {label}, {counts}" + ", differences" * (number > 0)
            yield _table(
                title, ("finding",), {(row,): None for row in rows}, part, lambda one: (one.finding,)
            )


def _table(
    title: str,
    heads: Sequence[str],
    rows: Mapping[tuple[str, ...], None],
    figures: Sequence[Figure],
    place_of,
) -> Table:
    """Rows by `place_of` a figure, with how many labels (or items) each rests on; a column for each source."""
    from rich.table import Table

    sources = list(dict.fromkeys(figure.source for figure in figures))
    cells = {(place_of(figure), figure.source): figure for figure in figures}
    table = Table(title=title, title_justify="left")
    for head in (*heads, "present"):
        table.add_column(head, justify="right" if head == "present" else "left", no_wrap=True)
    for source in sources:
        table.add_column(source, justify="right", no_wrap=True)
    for row in rows:
        told = [cells.get((row, source)) for source in sources]
        first = next(one for one in told if one is not None)
        numbers = ("" if one is None else cell(one) for one in told)
        table.add_row(*row, f"{first.present} of {first.known}", *numbers, end_section=row[0] == "macro")
    return table


def _by_source(title: str, tasks: Sequence[str], report: Report, gains: bool = False) -> Table:
    """A row for each source, a column for each task: macro AUROC, and what the first is better by."""
    from rich.table import Table

    first = next(iter(report.labels))
    table = Table(title=title, title_justify="left")
    table.add_column("source", no_wrap=True)
    for task in tasks:
        table.add_column(task, justify="right")
        if gains:
            table.add_column(f"{first} - it", justify="right")
    for source in report.labels:
        numbers = []
        for task in tasks:
            for asked in (source, f"{first} - {source}") if gains else (source,):
                found = [
                    one
                    for one in report.figures[task]
                    if (one.metric, one.finding, one.source) == ("AUROC", "macro", asked)
                ]
                numbers.append(cell(found[0]) if found else "")
        table.add_row(source, *numbers)
    return table


def cell(figure: Figure) -> str:
    """A value with its interval; differences carry a sign, and an interval that cannot be had says so.

    >>> cell(Figure("AUROC", "macro", "a - b", 0.1, 0.02, 0.2, 3, 9))
    '+0.100 (+0.020 +0.200)'
    """
    form = "+.3f" if " - " in figure.source else ".3f"
    bounds = "no interval" if math.isnan(figure.low) else f"{figure.low:{form}} {figure.high:{form}}"
    return f"{figure.value:{form}} ({bounds})"
