"""The record of an audit: slices.csv, summary.csv, metrics.json, figures, and the summary on the terminal."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...common.record import (
    DatasetUse,
    ExperimentRecord,
    MetricSeries,
    Rows,
    pretraining_step,
    publish,
    run_tags,
)
from ...volumes.volume import Volumes
from ..figures import dice_bars
from ..record import EXPERIMENT, percent
from .adaptation import BASELINES, NO_RESET, SliceTraining, TttAuditResult
from .components import COPY, ORACLE, TRUTH, CcaAuditResult
from .config import AuditConfig
from .figures import component_bars, drift_curves, example_grid, harm_bars, step_curves
from .summary import MEAN, audit_summary

if TYPE_CHECKING:
    from rich.table import Table

    from ....platform.models.backbone import Backbone

MEASURES = ("dice", "change", "worse", "better")
"""Columns of summary.csv that have intervals, and are metrics."""

NOTES = (
    "dice: query slices of the published protocol, pooled, mean over scans. change: paired with the row before. "
    "worse, better: share of a scan's slices whose Dice fell or rose against the row before, mean over scans. "
    "parts: components of a slice's mask, mean over slices; several: share of slices with more than one. "
    "Intervals: 95 %, bootstrap over scans, none under 5 scans; scans of one fold share their support, so that the "
    "true ones are wider."
)


@dataclass(frozen=True, slots=True, eq=False)
class AuditRecord:
    """What an audit leaves beside its settings. tables: name -> rows; pictures: name -> PNG; metrics: further ones."""

    experiment: str
    summary: Rows
    tables: Mapping[str, Rows]
    pictures: Mapping[str, bytes]
    left_out: Mapping[str, str]
    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: str = ""

    def __repr__(self) -> str:
        return f"AuditRecord({self.experiment}, {len(self.summary)} lines)"


def cca_record(result: CcaAuditResult, label: str, config: AuditConfig) -> AuditRecord:
    """Tables and figures of the audit of components. label: of the encoder."""
    summary = audit_summary(result.scores, result.before, result.organs, config)
    plotted = [
        line | {"floor": line["row"] in (COPY, ORACLE)}
        for line in summary
        if line["row"] not in (TRUTH, f"{COPY}, components 1", f"{COPY}, components n")
    ]
    pictures = {
        "dice": dice_bars(plotted, "dice", f"{label}: Dice with and without components"),
        "harm": harm_bars(
            [line for line in plotted if not line["row"].startswith(COPY)],
            f"{label}: slices that components help and harm",
        ),
        "parts": component_bars(
            [score for score in result.scores if score.row == TRUTH],
            result.organs,
            "Parts of an organ in a slice, by the truth",
        ),
    }
    note = "Only the component with the highest score is kept. Filled: prediction. Outlined: truth."
    examples = example_grid(result.examples, f"{label}: what keeping one component does", note)
    return AuditRecord(
        experiment="cca-audit",
        summary=summary,
        tables={"slices": [asdict(score) for score in result.scores], "summary": summary},
        pictures=pictures | ({"examples": examples} if examples else {}),
        left_out=result.left_out,
        notes="truth: the query's own labels; cut to components, they are the ceiling.",
    )


def ttt_record(result: TttAuditResult, label: str, config: AuditConfig) -> AuditRecord:
    """Tables and figures of the audit of test-time training. label: of the encoder."""
    costs = mean_costs(result.trainings)
    summary = [
        line | costs.get((line["row"], line["organ"]), NO_COST) | {"floor": line["row"] in BASELINES}
        for line in audit_summary(result.scores, result.before, result.organs, config)
    ]
    last_step = list(result.steps)[-1]
    first_fold = result.trainings[0].fold
    drifts = {
        row: [one.drift for one in result.trainings if one.row == row and one.fold == first_fold]
        for row in (last_step, NO_RESET)
    }
    pictures = {
        "dice": dice_bars(
            summary, "dice", f"{label}: Dice of query slices, before and after training on them"
        ),
        "harm": harm_bars(summary, f"{label}: slices that test-time training helps and harms"),
        "steps": step_curves(summary, result.steps, f"{label}: training on the query slice"),
        "drift": drift_curves(drifts, f"{label}: weights over the slices of a fold, with and without reset"),
    }
    note = f"{last_step} on the slice itself. Filled: prediction. Outlined: truth."
    examples = example_grid(result.examples, f"{label}: what test-time training does", note)
    metrics = {
        f"{name}/{line['row']}": line[name]
        for line in summary
        if line["organ"] == MEAN and not math.isnan(line["seconds"])
        for name in ("drift", "seconds")
    }
    metrics |= {f"order/{row}": difference for row, difference in result.order.items()}
    return AuditRecord(
        experiment="ttt-audit",
        summary=summary,
        tables={
            "slices": [asdict(score) for score in result.scores],
            "training": [asdict(one) for one in result.trainings],
            "summary": summary,
        },
        pictures=pictures | ({"examples": examples} if examples else {}),
        left_out=result.left_out,
        metrics=metrics,
        notes="drift: norm of the weights' change over their norm, from the encoder as given, mean over slices; "
        "without reset it goes on from slice to slice of a fold. seconds: per slice, all in all. order: largest "
        "difference of a score (organ minus background) when the query slices come in reverse order.",
    )


NO_COST = {"drift": math.nan, "seconds": math.nan, "trained": 0}
"""Costs of a row that trains nothing."""


def mean_costs(costs: Sequence[SliceTraining]) -> dict[tuple[str, str], dict[str, float]]:
    """(row, organ or MEAN) -> mean drift and seconds of its slices, and how many of them were trained on."""
    groups: dict[tuple[str, str], list[SliceTraining]] = defaultdict(list)
    for cost in costs:
        for organ in (cost.organ, MEAN):
            groups[cost.row, organ].append(cost)
    return {
        key: {
            "drift": sum(cost.drift for cost in group) / len(group),
            "seconds": sum(cost.seconds for cost in group) / len(group),
            "trained": sum(cost.steps > 0 for cost in group),
        }
        for key, group in groups.items()
    }


def record(
    audit: AuditRecord, volumes: Volumes, backbone: Backbone | None, config: AuditConfig, out: Path | str
) -> None:
    """Write an audit to `out` and to MLflow, and print its summary.

    Raises DataError where `out` holds something that is not ours.
    """
    card = backbone.card if backbone is not None else None
    digest, label = card.digest if card else "", backbone_label(backbone)
    metrics = {
        f"{name}/{line['row']}.{line['organ']}": line[name] for line in audit.summary for name in MEASURES
    }
    metrics |= audit.metrics
    publish(
        ExperimentRecord(
            experiment=EXPERIMENT,
            name=f"{audit.experiment}, {label}, {volumes.folder.name}",
            config=config,
            tags=run_tags(config, volumes.digest, digest, label, experiment=audit.experiment),
            identity={
                "experiment": audit.experiment,
                "backbone": {"digest": digest, "label": label},
                "data": volumes.digest,
            },
            metrics=metrics,
            details={"notes": f"{NOTES} {audit.notes}", "left_out": audit.left_out},
            series=[MetricSeries(metrics, pretraining_step(card), card)],
            datasets=[DatasetUse(volumes.folder.name, volumes.digest, {"scans": len(volumes)})],
            tables=audit.tables,
            figures=audit.pictures,
            terminal=[_summary_table(audit)],
            warnings=[f"left out: {name}: {reason}" for name, reason in audit.left_out.items()],
        ),
        out,
    )


def backbone_label(backbone: Backbone | None) -> str:
    """The label of a backbone's card; `pixels` without one."""
    return backbone.card.label if backbone is not None else "pixels"


def _summary_table(audit: AuditRecord) -> Table:
    """A line for each row: Dice by organ and mean, its change, slices worse and better."""
    from rich.table import Table

    organs = list(dict.fromkeys(line["organ"] for line in audit.summary))
    table = Table(title=f"{audit.experiment}: percent [95 % interval over scans]", title_justify="left")
    table.add_column("", no_wrap=True)
    trained = "seconds" in audit.summary[0]
    more = ("drift", "s/slice") if trained else ("parts",)
    for head in (*organs, "change of mean", "slices worse", "better", *more):
        table.add_column(head, justify="right", no_wrap=True)
    for row in dict.fromkeys(line["row"] for line in audit.summary):
        by_organ = {line["organ"]: line for line in audit.summary if line["row"] == row}
        mean = by_organ[MEAN]
        cells = [percent(by_organ[organ], "dice", interval=organ == MEAN) for organ in organs]
        if row == mean["before"]:
            cells += ["", "", ""]
        else:
            cells += [
                percent(mean, name, interval=name != "better") for name in ("change", "worse", "better")
            ]
        if trained:
            seconds = mean["seconds"]
            cells += [
                percent(mean, "drift", interval=False),
                "-" if math.isnan(seconds) else f"{seconds:.2f}",
            ]
        else:
            cells.append(f"{mean['parts']:.2f}")
        table.add_row(row, *cells)
    return table
