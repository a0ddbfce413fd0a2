"""Sections of the comparison page with metric values: charts, tables, paired differences.

Differences are paired: both sides predict the same studies and are resampled together over patients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...platform.measure.bootstrap import Estimate, estimate
from ...platform.measure.metrics import Metric, auroc, average_precision
from ...platform.measure.predictions import SavedPredictions
from ...platform.measure.results import MetricValue
from .charts import Mark, interval_chart
from .config import CompareConfig
from .groups import RunGroup, SourceColumn
from .html import Cell, heading, legend, paragraph, table

METRICS: Mapping[str, Metric] = {"AUROC": auroc, "AP": average_precision}
"""Metrics that can be computed again from predictions, for paired differences."""

CHANCE = {"AUROC": 0.5}
"""Metric -> its value without skill."""


def metric_sections(
    columns: Sequence[SourceColumn], groups: Sequence[RunGroup], config: CompareConfig
) -> Iterator[str]:
    """One section per folder of shards: values on different studies are not compared."""
    for manifest in dict.fromkeys(column.run.manifest for column in columns):
        here = [column for column in columns if column.run.manifest == manifest]
        groups_here = [
            replace(group, columns=group_columns)
            for group in groups
            if (group_columns := [c for c in group.columns if c in here])
        ]
        yield heading(f"Results on the shards {manifest[:12]}")
        yield from _other_shards(columns, here)
        yield legend({group.name: group.color for group in groups_here})
        for task in dict.fromkeys(task for column in here for task in column.run.values):
            yield from _task_tables(task, [c for c in here if task in c.run.values], groups_here)
            yield from _paired_differences(task, groups_here, config)
            yield from _own_differences(task, here)


def _other_shards(columns: Sequence[SourceColumn], here: Sequence[SourceColumn]) -> Iterator[str]:
    """Names the evaluations on other shards, which are not compared with these."""
    names = ", ".join(dict.fromkeys(column.run.name for column in here))
    others = {column.run.name: column.run.manifest for column in columns if column not in here}
    for name, manifest in others.items():
        yield paragraph(
            f"{name} was evaluated on other shards ({manifest[:12]}) than {names} ({here[0].run.manifest[:12]}): "
            "their differences are not paired; evaluate both on the same folder of shards.",
            "note",
        )


def _task_tables(task: str, columns: Sequence[SourceColumn], groups: Sequence[RunGroup]) -> Iterator[str]:
    """A chart and a table per metric; with several seeds, a second table of means."""
    values = [value for column in columns for value in column.run.values[task]]
    for metric in dict.fromkeys(value.metric for value in values):
        findings = list(
            dict.fromkeys(v.finding for v in values if v.metric == metric and " - " not in v.source)
        )
        summary_rows = int(findings[:1] == ["macro"])
        yield heading(f"{task}: {metric}", 3)
        marks = {finding: list(_marks(task, metric, finding, columns, groups)) for finding in findings}
        yield '<div class="charts">'
        yield interval_chart(f"{task} {metric}, 95 % intervals over patients", marks, CHANCE.get(metric))
        yield "</div>"
        rows = [_row(task, metric, finding, columns) for finding in findings]
        yield table(["finding", "present", *(column.name for column in columns)], rows, summary_rows)
        if any(len(group.columns) > 1 for group in groups):
            yield paragraph("Mean and standard deviation over seeds:", "muted")
            means: list[list[str | Cell]] = [
                [finding, *_over_seeds(task, metric, finding, groups)] for finding in findings
            ]
            yield table(["finding", *(group.name for group in groups)], means, summary_rows)
    for column in columns:
        for finding, reason in column.run.left_out.get(task, {}).items():
            yield paragraph(f"Left out by {column.run.name}: {finding} ({reason}).", "muted")


def _marks(
    task: str, metric: str, finding: str, columns: Sequence[SourceColumn], groups: Sequence[RunGroup]
) -> Iterator[Mark]:
    for column in columns:
        [group] = [group for group in groups if column in group.columns]
        value = column.value(task, metric, finding)
        if value and math.isfinite(value.value):
            yield Mark(group.name, group.color, value.value, value.low, value.high)


def _row(task: str, metric: str, finding: str, columns: Sequence[SourceColumn]) -> list[str | Cell]:
    values = [column.value(task, metric, finding) for column in columns]
    counts = next((f"{value.present} of {value.known}" for value in values if value), "")
    return [finding, counts, *(value_cell(value) if value else "" for value in values)]


def value_cell(value: MetricValue) -> Cell:
    """A metric value as a cell: three digits and its interval; a difference whose interval excludes 0 is colored."""
    is_difference = " - " in value.source
    form = "+.3f" if is_difference else ".3f"
    if math.isnan(value.value):
        return Cell("not measured")
    if math.isnan(value.low):
        return Cell(f"{value.value:{form}}", "no interval")
    verdict = ""
    if is_difference:
        verdict = "better" if value.low > 0 else "worse" if value.high < 0 else ""
    return Cell(f"{value.value:{form}}", f"{value.low:{form}} to {value.high:{form}}", verdict)


def _over_seeds(task: str, metric: str, finding: str, groups: Sequence[RunGroup]) -> Iterator[Cell]:
    for group in groups:
        values = [value.value for c in group.columns if (value := c.value(task, metric, finding))]
        if not values:
            yield Cell("")
        elif len(values) == 1:
            yield Cell(f"{values[0]:.3f}", "one run")
        else:
            yield Cell(f"{np.mean(values):.3f}", f"± {np.std(values, ddof=1):.3f}, {len(values)} seeds")


def _paired_differences(task: str, groups: Sequence[RunGroup], config: CompareConfig) -> Iterator[str]:
    """Every group minus the first, paired over patients, where all of them kept their predictions."""
    predictions = {
        group.name: {column.name: column.run.predictions(task, column.source) for column in group.columns}
        for group in groups
    }
    missing = [name for group in predictions.values() for name, saved in group.items() if saved is None]
    if missing:
        yield paragraph(
            f"{task}: no paired interval for {', '.join(missing)}: no predictions per study kept.", "muted"
        )
    complete = {
        name: [saved for saved in group.values() if saved is not None]
        for name, group in predictions.items()
        if None not in group.values()
    }
    if len(complete) < 2:
        return
    first, *others = complete
    comparable = []
    for name in others:
        if _identity(complete[name]) == _identity(complete[first]):
            comparable.append(name)
        else:
            yield paragraph(
                f"{task}: {name} and {first} predicted other studies or findings: not paired.", "note"
            )
    if not comparable:
        return
    yield heading(f"{task}: difference from {first}, paired over patients", 3)
    for metric, function in METRICS.items():
        reference = _mean_estimate(function, complete[first], config)
        differences = [_mean_estimate(function, complete[name], config) - reference for name in comparable]
        findings = complete[first][0].predictions.findings
        rows: list[list[str | Cell]] = [
            ["macro", *(_difference_cell(each.macro(), 0) for each in differences)]
        ]
        rows += [
            [finding, *(_difference_cell(each, column) for each in differences)]
            for column, finding in enumerate(findings)
        ]
        yield table([metric, *(f"{name} - {first}" for name in comparable)], rows, 1)


def _identity(group: Sequence[SavedPredictions]) -> set[tuple]:
    """What must be equal for a paired comparison: shards, findings, patients, truth."""
    return {
        (
            saved.manifest,
            saved.predictions.findings,
            saved.predictions.patients,
            saved.predictions.truth.tobytes(),
        )
        for saved in group
    }


def _mean_estimate(metric: Metric, group: Sequence[SavedPredictions], config: CompareConfig) -> Estimate:
    """The mean over seeds, also in each resample of the patients."""
    estimates = []
    for saved in group:
        each = saved.predictions
        estimates.append(
            estimate(metric, each.truth, each.scores, each.patients, config.resamples, config.seed)
        )
    return Estimate(
        np.mean([each.values for each in estimates], axis=0),
        np.mean([each.samples for each in estimates], axis=0),
    )


def _difference_cell(difference: Estimate, column: int) -> Cell:
    low, high = difference.interval()
    value = float(difference.values[column])
    return value_cell(MetricValue("", "", " - ", value, float(low[column]), float(high[column]), 0, 0))


def _own_differences(task: str, columns: Sequence[SourceColumn]) -> Iterator[str]:
    """The paired differences that each evaluation measured itself."""
    runs = dict.fromkeys(column.run for column in columns if task in column.run.values)
    for run in runs:
        differences = [value for value in run.values[task] if " - " in value.source]
        if not differences:
            continue
        yield heading(f"{task}: paired differences within {run.name}", 3)
        sources = list(dict.fromkeys(value.source for value in differences))
        for metric in dict.fromkeys(value.metric for value in differences):
            cells = {(v.finding, v.source): value_cell(v) for v in differences if v.metric == metric}
            findings = list(dict.fromkeys(finding for finding, _ in cells))
            rows = [[one, *(cells.get((one, source), "") for source in sources)] for one in findings]
            yield table([metric, *sources], rows, int(findings[:1] == ["macro"]))
