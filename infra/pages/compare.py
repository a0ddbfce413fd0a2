"""Runs side by side on one page: settings that differ, curves, figures with intervals, what each backbone sees.

Runs that differ in their seed alone are one group: its curve is their mean with the standard deviation around
it. Differences are paired: both sides answer the same studies and are resampled together over patients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...platform.core.config import nearest
from ...platform.core.errors import ConfigError
from ...platform.core.files import atomic_write
from ...platform.measure.metrics import Estimate, Figure, auroc, average_precision, estimate
from ...platform.measure.predictions import Kept
from . import html as page
from .config import CompareConfig
from .html import Cell, Curve, Mark
from .runs import Record, common_name, records_of

GROUPS = ("probe", "loss", "health")
"""Groups of metrics whose curves are shown where none are asked for."""

METRICS = {"AUROC": auroc, "AP": average_precision}
"""Figures that can be had again from answers, for paired differences."""

CHANCE = {"AUROC": 0.5}


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One source of one evaluation. group: of the runs that differ from its own in their seed alone."""

    name: str
    record: Record
    source: str
    group: str

    def figure(self, task: str, metric: str, finding: str) -> Figure | None:
        """One of its figures, None where it was not measured."""
        for one in self.record.figures.get(task, ()):
            if (one.metric, one.finding, one.source) == (metric, finding, self.source):
                return one
        return None


def compare(runs: Sequence[Path], out: Path, config: CompareConfig | None = None) -> Path:
    """Writes the page and gives back its path. The first run is what the others are held against.

    runs: folders of trainings and evaluations. Raises ConfigError for a folder that is no run and for runs that
    share no metric, DataError for damaged files.
    """
    config = config or CompareConfig()
    if not runs:
        raise ConfigError("nothing to compare; give the folders of two runs or more")
    records = records_of(runs)
    trainings = [record for record in records if record.trains]
    evaluations = [record for record in records if not record.trains]
    _check_common(trainings, evaluations)
    columns = _columns(evaluations, trainings)
    groups = _groups(trainings, columns)
    colours = {name: number for number, name in enumerate(groups)}
    body = [
        page.title("Runs compared", 1),
        page.text(", ".join(record.name for record in records), "soft"),
        *_overview(records),
        *_settings("Settings of the trainings that differ", trainings),
        *_settings("Settings of the evaluations that differ", evaluations),
        *_curves(trainings, groups, colours, config),
        *_figures(columns, groups, colours, config),
        *_views(trainings, config),
    ]
    atomic_write(out, page.page("vetdino: " + ", ".join(record.name for record in records), body))
    return out


def _check_common(*kinds: Sequence[Record]) -> None:
    """Raises ConfigError where a run shares no metric with the first of its kind."""
    for records in kinds:
        for other in records[1:]:
            first = records[0]
            if not _measured(first) & _measured(other):
                one, two = (", ".join(sorted(_measured(record))[:4]) for record in (first, other))
                raise ConfigError(
                    f"{first.name} and {other.name} share no metric ({one} … / {two} …); compare runs of one kind"
                )


def _measured(record: Record) -> set[str]:
    if record.trains:
        return set(record.curves)
    return {f"{task} {figure.metric}" for task, figures in record.figures.items() for figure in figures}


def _columns(evaluations: Sequence[Record], trainings: Sequence[Record]) -> list[Column]:
    """The sources of all evaluations; what several measured alike, such as a floor, stands there once."""
    families = {digest: training.family for training in trainings if (digest := _digest(training.folder))}
    ranked: list[tuple[int, Column]] = []
    seen = set()
    for record in evaluations:
        sources = [figure.source for figures in record.figures.values() for figure in figures]
        for rank, source in enumerate(dict.fromkeys(one for one in sources if " - " not in one)):
            digest = record.backbones.get(source, "")
            column = Column(f"{record.name}: {source}", record, source, families.get(digest, ""))
            same = (record.manifest, digest or source, _values(column))
            if same not in seen:
                seen.add(same)
                ranked.append((rank, column))
    # What each evaluation is about comes first, its floors after that.
    columns = [column for _, column in sorted(ranked, key=lambda pair: pair[0])]
    short = [column.record.name if column.source == "backbone" else column.source for column in columns]
    names = [
        word if short.count(word) == 1 else column.name for word, column in zip(short, columns, strict=True)
    ]
    return [
        replace(column, name=name, group=column.group or name)
        for column, name in zip(columns, names, strict=True)
    ]


def _digest(folder: Path) -> str:
    """Identity of the backbone that a training left, empty where it has not ended."""
    from ...platform.core.config import from_json
    from ...platform.models.backbone import CARD, Card

    path = folder / "backbone" / CARD
    return from_json(Card, path.read_text(), source=str(path)).digest if path.is_file() else ""


def _values(column: Column) -> tuple[tuple[str, str, float], ...]:
    return tuple(
        (task, figure.finding, figure.value)
        for task, figures in column.record.figures.items()
        for figure in figures
        if figure.source == column.source
    )


def _groups(trainings: Sequence[Record], columns: Sequence[Column]) -> dict[str, list[Record | Column]]:
    """Name of a group -> its trainings and columns, in the order they were given."""
    by_key: dict[str, list[Record | Column]] = {}
    for training in trainings:
        by_key.setdefault(training.family, []).append(training)
    for column in columns:
        by_key.setdefault(column.group, []).append(column)
    groups: dict[str, list[Record | Column]] = {}
    for members in by_key.values():
        named = [one for one in members if isinstance(one, Record)] or members
        groups[common_name([one.name for one in named])] = members
    return groups


def _overview(records: Sequence[Record]) -> Iterator[str]:
    rows = []
    for record in records:
        tags = record.tags
        steps = max((step for curve in record.curves.values() for step in curve), default=0)
        rows.append(
            [
                record.name,
                f"training, {steps:,} steps" if record.trains else f"evaluation: {', '.join(record.figures)}",
                str(tags.get("views", "")),
                str(tags.get("seed", "")),
                record.manifest[:12],
                str(tags.get("config", ""))[:12],
                str(tags.get("git_revision", ""))[:10]
                + "+" * str(tags.get("git_revision", "")).endswith("+"),
            ]
        )
    yield page.table(["run", "what", "views", "seed", "shards", "settings", "revision"], rows)


def _settings(words: str, records: Sequence[Record]) -> Iterator[str]:
    if len(records) < 2:
        return
    yield page.title(words)
    keys = dict.fromkeys(key for record in records for key in record.params if key != "out")
    rows = [
        [key, *(str(record.params.get(key, "not there")) for record in records)]
        for key in keys
        if len({str(record.params.get(key, "not there")) for record in records}) > 1
    ]
    if rows:
        yield page.table(["setting", *(record.name for record in records)], rows)
    else:
        yield page.text("None.")


def _curves(
    trainings: Sequence[Record],
    groups: Mapping[str, list[Record | Column]],
    colours: Mapping[str, int],
    config: CompareConfig,
) -> Iterator[str]:
    if not trainings:
        return
    members = {name: [one for one in group if isinstance(one, Record)] for name, group in groups.items()}
    members = {name: records for name, records in members.items() if records}
    names = _chosen(trainings, config.metrics)
    yield page.title("Curves over the pretraining step")
    if any(len(records) > 1 for records in members.values()):
        yield page.text("A band is one standard deviation over seeds; faint lines are the seeds.", "soft")
    yield page.legend({name: colours[name] for name in members})
    yield '<div class="charts">'
    for metric in names:
        curves = [curve_of(name, colours[name], metric, records) for name, records in members.items()]
        yield page.chart(metric, [curve for curve in curves if curve.points])
    yield "</div>"


def curve_of(name: str, colour: int, metric: str, records: Sequence[Record]) -> Curve:
    """The mean of a metric over runs, at the steps that all of them recorded, and its standard deviation (n - 1)."""
    told = [record.curves.get(metric, {}) for record in records]
    steps = sorted(set.intersection(*(set(curve) for curve in told)))
    points = []
    for step in steps:
        values = [curve[step] for curve in told]
        std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        points.append((step, float(np.mean(values)), std))
    thin = tuple(sorted(curve.items()) for curve in told) if len(told) > 1 else ()
    return Curve(name, colour, points, thin)


def _chosen(trainings: Sequence[Record], asked: Sequence[str]) -> list[str]:
    """The metrics that all trainings recorded, of the names or groups asked for. Raises ConfigError."""
    common = [name for name in trainings[0].curves if all(name in training.curves for training in trainings)]
    for word in asked:
        if word not in {*common, *(name.partition("/")[0] for name in common)}:
            raise ConfigError(f"no metric '{word}' in all of these trainings; {nearest(word, common)}")
    wanted = set(asked) or set(GROUPS)
    chosen = [name for name in common if name in wanted or name.partition("/")[0] in wanted] or common
    order = {group: number for number, group in enumerate(GROUPS)}
    return sorted(chosen, key=lambda name: order.get(name.partition("/")[0], len(order)))


def _figures(
    columns: Sequence[Column],
    groups: Mapping[str, list[Record | Column]],
    colours: Mapping[str, int],
    config: CompareConfig,
) -> Iterator[str]:
    """Tables of each folder of shards on its own: figures on different studies are not to be held together."""
    if not columns:
        return
    of = {id(one): name for name, members in groups.items() for one in members}
    manifests = list(dict.fromkeys(column.record.manifest for column in columns))
    for manifest in manifests:
        here = [column for column in columns if column.record.manifest == manifest]
        by = {
            name: [one for one in members if any(one is column for column in here)]
            for name, members in groups.items()
        }
        by = {name: members for name, members in by.items() if members}
        yield page.title(f"Figures on the shards {manifest[:12]}")
        yield from _apart(columns, here)
        yield page.legend({name: colours[name] for name in by})
        tasks = list(dict.fromkeys(task for column in here for task in column.record.figures))
        for task in tasks:
            yield from _task(
                task, [column for column in here if task in column.record.figures], by, of, colours
            )
            yield from _differences(task, by, config)
            yield from _within(task, here)


def _apart(columns: Sequence[Column], here: Sequence[Column]) -> Iterator[str]:
    """Says which evaluations are not held against these, and why."""
    others = {column.record.name: column.record.manifest for column in columns if column not in here}
    for name, manifest in others.items():
        own = ", ".join(dict.fromkeys(column.record.name for column in here))
        yield page.text(
            f"{name} was measured on other shards ({manifest[:12]}) than {own} ({here[0].record.manifest[:12]}): "
            "their figures are not paired; evaluate both on one folder of shards.",
            "note",
        )


def _task(
    task: str,
    columns: Sequence[Column],
    by: Mapping[str, Sequence[Column]],
    of: Mapping[int, str],
    colours: Mapping[str, int],
) -> Iterator[str]:
    told = [figure for column in columns for figure in column.record.figures[task]]
    for metric in dict.fromkeys(figure.metric for figure in told):
        findings = list(
            dict.fromkeys(
                figure.finding for figure in told if figure.metric == metric and " - " not in figure.source
            )
        )
        whole = int(findings[:1] == ["macro"])
        yield page.title(f"{task}: {metric}", 3)
        marks = {
            finding: [
                Mark(of[id(column)], colours[of[id(column)]], figure.value, figure.low, figure.high)
                for column in columns
                if (figure := column.figure(task, metric, finding)) and math.isfinite(figure.value)
            ]
            for finding in findings
        }
        yield '<div class="charts">'
        yield page.intervals(f"{task} {metric}, 95 % intervals over patients", marks, CHANCE.get(metric))
        yield "</div>"
        rows = [_row(task, metric, finding, columns) for finding in findings]
        yield page.table(["finding", "present", *(column.name for column in columns)], rows, whole)
        if any(len(members) > 1 for members in by.values()):
            yield page.text("Mean and standard deviation over seeds:", "soft")
            rows = [[finding, *_over_seeds(task, metric, finding, by)] for finding in findings]
            yield page.table(["finding", *by], rows, whole)
    for column in columns:
        for finding, reason in column.record.left_out.get(task, {}).items():
            yield page.text(f"Left out by {column.record.name}: {finding} ({reason}).", "soft")


def _row(task: str, metric: str, finding: str, columns: Sequence[Column]) -> list[str | Cell]:
    found = [column.figure(task, metric, finding) for column in columns]
    counts = next((f"{one.present} of {one.known}" for one in found if one), "")
    return [finding, counts, *(number(one) if one else "" for one in found)]


def number(figure: Figure) -> Cell:
    """A figure as a cell: three digits and its interval; a difference that leaves 0 out is coloured."""
    form = "+.3f" if " - " in figure.source else ".3f"
    if math.isnan(figure.value):
        return Cell("not measured")
    if math.isnan(figure.low):
        return Cell(f"{figure.value:{form}}", "no interval")
    verdict = ""
    if " - " in figure.source:
        verdict = "better" if figure.low > 0 else "worse" if figure.high < 0 else ""
    return Cell(f"{figure.value:{form}}", f"{figure.low:{form}} to {figure.high:{form}}", verdict)


def _over_seeds(task: str, metric: str, finding: str, by: Mapping[str, Sequence[Column]]) -> Iterator[Cell]:
    for members in by.values():
        values = [figure.value for one in members if (figure := one.figure(task, metric, finding))]
        if not values:
            yield Cell("")
        elif len(values) == 1:
            yield Cell(f"{values[0]:.3f}", "one run")
        else:
            yield Cell(f"{np.mean(values):.3f}", f"± {np.std(values, ddof=1):.3f}, {len(values)} seeds")


def _differences(task: str, by: Mapping[str, Sequence[Column]], config: CompareConfig) -> Iterator[str]:
    """Every group minus the first, paired over patients, where all of them kept their answers."""
    told = {
        name: {one.name: one.record.answers(task, one.source) for one in members}
        for name, members in by.items()
    }
    missing = [one for group in told.values() for one, kept in group.items() if kept is None]
    if missing:
        yield page.text(
            f"{task}: no paired interval for {', '.join(missing)}: no answers per study kept.", "soft"
        )
    kept = {name: list(group.values()) for name, group in told.items() if None not in group.values()}
    if len(kept) < 2:
        return
    first, *others = kept
    same = []
    for name in others:
        if _items(kept[name]) == _items(kept[first]):
            same.append(name)
        else:
            yield page.text(
                f"{task}: {name} and {first} answered other studies or findings: not paired.", "note"
            )
    if not same:
        return
    yield page.title(f"{task}: difference from {first}, paired over patients", 3)
    for metric, function in METRICS.items():
        base = _mean_estimate(function, kept[first], config)
        estimates = {name: _mean_estimate(function, kept[name], config) - base for name in same}
        findings = kept[first][0].answers.findings
        parts = {name: (one.macro(), one) for name, one in estimates.items()}
        rows = [["macro", *(_difference(macro, 0) for macro, _ in parts.values())]]
        rows += [
            [finding, *(_difference(each, column) for _, each in parts.values())]
            for column, finding in enumerate(findings)
        ]
        yield page.table([metric, *(f"{name} - {first}" for name in same)], rows, 1)


def _items(kept: Sequence[Kept]) -> set[tuple]:
    return {
        (one.manifest, one.answers.findings, one.answers.patients, one.answers.truth.tobytes())
        for one in kept
    }


def _mean_estimate(metric, kept: Sequence[Kept], config: CompareConfig) -> Estimate:
    """The mean over seeds, in each resample of the patients too."""
    told = [
        estimate(
            metric, one.answers.truth, one.answers.scores, one.answers.patients, config.resamples, config.seed
        )
        for one in kept
    ]
    return Estimate(
        np.mean([one.values for one in told], axis=0), np.mean([one.samples for one in told], axis=0)
    )


def _difference(spread: Estimate, column: int) -> Cell:
    low, high = spread.interval()
    value = float(spread.values[column])
    return number(Figure("", "", " - ", value, float(low[column]), float(high[column]), 0, 0))


def _within(task: str, columns: Sequence[Column]) -> Iterator[str]:
    """The paired differences that each evaluation measured itself."""
    records = {id(column.record): column.record for column in columns if task in column.record.figures}
    for record in records.values():
        told = [figure for figure in record.figures[task] if " - " in figure.source]
        if not told:
            continue
        yield page.title(f"{task}: paired differences inside {record.name}", 3)
        sources = list(dict.fromkeys(figure.source for figure in told))
        for metric in dict.fromkeys(figure.metric for figure in told):
            cells = {(one.finding, one.source): number(one) for one in told if one.metric == metric}
            findings = list(dict.fromkeys(finding for finding, _ in cells))
            rows = [[one, *(cells.get((one, source), "") for source in sources)] for one in findings]
            yield page.table([metric, *sources], rows, int(findings[:1] == ["macro"]))


def _views(trainings: Sequence[Record], config: CompareConfig) -> Iterator[str]:
    """What the backbones see in the same studies. Raises as `platform.backbone.load` and `shown_of`."""
    if not config.shards:
        return
    from ...platform.models.backbone import load
    from .panels import CAPTION, panels, shown_of
    from .runs import names_of

    folders = {
        training.name: training.folder / "backbone"
        for training in trainings
        if (training.folder / "backbone").is_dir()
    }
    folders |= dict(zip(names_of(config.backbones), config.backbones, strict=True))
    if not folders:
        raise ConfigError(
            "--shards is given, but none of the runs left a backbone; name some with --backbones"
        )
    backbones = {name: load(folder) for name, folder in folders.items()}
    yield page.title("The same studies through each backbone")
    yield page.text(f"Tiles: {CAPTION}.", "soft")
    study = ""
    for shown, name, encoded in panels(backbones, shown_of(config.shards, config.split, config.studies)):
        if shown != study:
            yield ("</div>" if study else "") + page.title(shown, 3) + '<div class="panels">'
            study = shown
        yield page.picture(encoded, name)
    yield "</div>"
