"""The comparison page: runs side by side, with settings that differ, curves, metric values, and example studies.

Runs that differ in their seed alone are one group: its curve is their mean, with the standard deviation around it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ...platform.core.config import nearest
from ...platform.core.errors import ConfigError
from ...platform.core.files import atomic_write
from .charts import Curve, line_chart
from .config import CompareConfig
from .groups import RunGroup, run_groups, source_columns
from .html import heading, html_document, legend, paragraph, picture, table
from .metric_sections import metric_sections
from .runs import RunRecord, distinct_names, read_runs

GROUPS = ("probe", "loss", "health")
"""Groups of metrics that are plotted by default."""


def compare(runs: Sequence[Path], out: Path, config: CompareConfig | None = None) -> Path:
    """Writes the page and returns its path. The others are compared with the first run.

    runs: folders of trainings and evaluations. Raises ConfigError for a folder that is no run and for runs that
    share no metric, DataError for damaged files.
    """
    config = config or CompareConfig()
    if not runs:
        raise ConfigError("nothing to compare; give the folders of two runs or more")
    records = read_runs(runs)
    trainings = [record for record in records if record.is_training]
    evaluations = [record for record in records if not record.is_training]
    _check_common_metrics(trainings)
    _check_common_metrics(evaluations)
    columns = source_columns(evaluations, trainings)
    groups = run_groups(trainings, columns)
    names = ", ".join(record.name for record in records)
    body = [
        heading("Runs compared", 1),
        paragraph(names, "muted"),
        _overview(records),
        *_differing_settings("Settings of the trainings that differ", trainings),
        *_differing_settings("Settings of the evaluations that differ", evaluations),
        *_curves(trainings, groups, config),
        *metric_sections(columns, groups, config),
        *_example_studies(trainings, config),
    ]
    atomic_write(out, html_document(f"vetdino: {names}", body))
    return out


def _check_common_metrics(runs: Sequence[RunRecord]) -> None:
    """Raises ConfigError if a run shares no metric with the first."""
    for other in runs[1:]:
        first = runs[0]
        if not _metrics(first) & _metrics(other):
            one, two = (", ".join(sorted(_metrics(run))[:4]) for run in (first, other))
            raise ConfigError(
                f"{first.name} and {other.name} share no metric ({one} … / {two} …); compare runs of one kind"
            )


def _metrics(run: RunRecord) -> set[str]:
    if run.is_training:
        return set(run.curves)
    return {f"{task} {value.metric}" for task, values in run.values.items() for value in values}


def _overview(runs: Sequence[RunRecord]) -> str:
    rows = []
    for run in runs:
        steps = max((step for curve in run.curves.values() for step in curve), default=0)
        revision = str(run.tags.get("git_revision", ""))
        rows.append(
            [
                run.name,
                f"training, {steps:,} steps" if run.is_training else f"evaluation: {', '.join(run.values)}",
                str(run.tags.get("views", "")),
                str(run.tags.get("seed", "")),
                run.manifest[:12],
                str(run.tags.get("config", ""))[:12],
                revision[:10] + "+" * revision.endswith("+"),
            ]
        )
    return table(["run", "what", "views", "seed", "shards", "settings", "revision"], rows)


def _differing_settings(title: str, runs: Sequence[RunRecord]) -> Iterator[str]:
    if len(runs) < 2:
        return
    yield heading(title)
    keys = dict.fromkeys(key for run in runs for key in run.params if key != "out")
    rows = [[key, *(str(run.params.get(key, "not set")) for run in runs)] for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    if rows:
        yield table(["setting", *(run.name for run in runs)], rows)
    else:
        yield paragraph("None.")


def _curves(
    trainings: Sequence[RunRecord], groups: Sequence[RunGroup], config: CompareConfig
) -> Iterator[str]:
    if not trainings:
        return
    shown = [group for group in groups if group.trainings]
    yield heading("Curves over the pretraining step")
    if any(len(group.trainings) > 1 for group in shown):
        yield paragraph("A band is one standard deviation over seeds; faint lines are the seeds.", "muted")
    yield legend({group.name: group.color for group in shown})
    yield '<div class="charts">'
    for metric in _plotted_metrics(trainings, config.metrics):
        curves = [mean_curve(group, metric) for group in shown]
        if curves := [curve for curve in curves if curve.points]:
            yield line_chart(metric, curves)
    yield "</div>"


def mean_curve(group: RunGroup, metric: str) -> Curve:
    """Mean of a metric over the group's trainings at the steps that all recorded, with standard deviation (n - 1)."""
    curves = [run.curves.get(metric, {}) for run in group.trainings]
    points = []
    for step in sorted(set.intersection(*(set(curve) for curve in curves))):
        values = [curve[step] for curve in curves]
        std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        points.append((step, float(np.mean(values)), std))
    seeds = tuple(sorted(curve.items()) for curve in curves) if len(curves) > 1 else ()
    return Curve(group.name, group.color, points, seeds)


def _plotted_metrics(trainings: Sequence[RunRecord], wanted: Sequence[str]) -> list[str]:
    """The metrics that all trainings recorded, of the wanted names or groups. Raises ConfigError for an unknown one."""
    common = [name for name in trainings[0].curves if all(name in run.curves for run in trainings)]
    for word in wanted:
        if word not in {*common, *(name.partition("/")[0] for name in common)}:
            raise ConfigError(f"no metric '{word}' in all of these trainings; {nearest(word, common)}")
    chosen = set(wanted) or set(GROUPS)
    plotted = [name for name in common if name in chosen or name.partition("/")[0] in chosen] or common
    order = {group: number for number, group in enumerate(GROUPS)}
    return sorted(plotted, key=lambda name: order.get(name.partition("/")[0], len(order)))


def _example_studies(trainings: Sequence[RunRecord], config: CompareConfig) -> Iterator[str]:
    """Patch similarity and attention of every backbone. Raises as `loading.load` and `panel_studies`."""
    if not config.shards:
        return
    from ...platform.models.loading import load
    from .panels import CAPTION, backbone_panels, panel_studies

    folders = {run.name: run.folder / "backbone" for run in trainings if (run.folder / "backbone").is_dir()}
    given = [Path(place) for place in config.backbones]
    folders |= dict(zip(distinct_names(given), given, strict=True))
    if not folders:
        raise ConfigError(
            "--shards is given, but none of the runs has a backbone; name some with --backbones"
        )
    backbones = {name: load(folder) for name, folder in folders.items()}
    yield heading("The same studies through each backbone")
    yield paragraph(f"Tiles: {CAPTION}.", "muted")
    study = ""
    for title, name, encoded in backbone_panels(
        backbones, panel_studies(config.shards, config.split, config.studies)
    ):
        if title != study:
            yield ("</div>" if study else "") + heading(title, 3) + '<div class="panels">'
            study = title
        yield picture(encoded, name)
    yield "</div>"
