"""Groups of runs on the comparison page: runs that differ in their seed alone share a name and a color."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...platform.measure.results import MetricValue
from .runs import RunRecord, common_name


@dataclass(frozen=True, slots=True, eq=False)
class SourceColumn:
    """One source of one evaluation, a column of its tables. group: key of the group it belongs to."""

    name: str
    run: RunRecord
    source: str
    group: str

    def value(self, task: str, metric: str, finding: str) -> MetricValue | None:
        """Its value of a metric, None if it was not measured."""
        for value in self.run.values.get(task, ()):
            if (value.metric, value.finding, value.source) == (metric, finding, self.source):
                return value
        return None


@dataclass(frozen=True, slots=True, eq=False)
class RunGroup:
    """Repeats of one experiment: trainings, and columns of evaluations. color: number of its color."""

    name: str
    color: int
    trainings: Sequence[RunRecord]
    columns: Sequence[SourceColumn]


def source_columns(evaluations: Sequence[RunRecord], trainings: Sequence[RunRecord]) -> list[SourceColumn]:
    """The sources of all evaluations: those evaluated first, then baselines. A baseline that several evaluations
    measured with equal values is listed once."""
    group_keys = {
        digest: training.repeat_key for training in trainings if (digest := _digest(training.folder))
    }
    ranked: list[tuple[int, SourceColumn]] = []
    seen = set()
    for run in evaluations:
        for rank, source in enumerate(measured_sources(run)):
            digest = run.backbones.get(source, "")
            column = SourceColumn(f"{run.name}: {source}", run, source, group_keys.get(digest, ""))
            identity = (run.manifest, digest or source, tuple(_values(column)))
            if identity not in seen:
                seen.add(identity)
                ranked.append((rank, column))
    columns = [column for _, column in sorted(ranked, key=lambda pair: pair[0])]
    short = [column.run.name if column.source == "backbone" else column.source for column in columns]
    names = [
        name if short.count(name) == 1 else column.name for name, column in zip(short, columns, strict=True)
    ]
    return [
        replace(column, name=name, group=column.group or name)
        for column, name in zip(columns, names, strict=True)
    ]


def run_groups(trainings: Sequence[RunRecord], columns: Sequence[SourceColumn]) -> list[RunGroup]:
    """The groups in the order of their runs; a group is named for its trainings, without any for its columns."""
    keys = dict.fromkeys([*(run.repeat_key for run in trainings), *(column.group for column in columns)])
    groups = []
    for color, key in enumerate(keys):
        own_trainings = [run for run in trainings if run.repeat_key == key]
        own_columns = [column for column in columns if column.group == key]
        name = common_name([member.name for member in own_trainings or own_columns])
        groups.append(RunGroup(name, color, own_trainings, own_columns))
    return groups


def measured_sources(run: RunRecord) -> list[str]:
    """Sources of an evaluation in the order of its tables, without differences (`a - b`)."""
    sources = dict.fromkeys(value.source for values in run.values.values() for value in values)
    return [source for source in sources if " - " not in source]


def _digest(training: Path) -> str:
    """Digest of the backbone of a training, empty if it has not ended."""
    from ...platform.core.config import from_json
    from ...platform.models.card import CARD, Card

    path = training / "backbone" / CARD
    return from_json(Card, path.read_text(), source=str(path)).digest if path.is_file() else ""


def _values(column: SourceColumn) -> Iterator[tuple[str, str, float]]:
    for task, values in column.run.values.items():
        for value in values:
            if value.source == column.source:
                yield task, value.finding, value.value
