"""What an audit leaves: slices.csv, summary.csv, metrics.json, figures, one MLflow run, a table to read."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....platform.core.config import digest, flat, to_json
from ....platform.core.files import atomic_write
from ....platform.core.progress import tables_console
from ....platform.core.runs import open_run
from ...common.record import METRICS, finite, replaced
from ...volumes.volume import Volumes
from ..figures import dice_bars
from ..record import EXPERIMENT
from .adaptation import FLOORS, NO_RESET, Cost, TttAudit
from .components import COPY, ORACLE, TRUTH, CcaAudit
from .config import AuditConfig
from .figures import drift_lines, examples, harm_bars, parts_bars, step_curves
from .slices import MEAN, summary_of

if TYPE_CHECKING:
    from ....platform.models.backbone import Backbone

MEASURES = ("dice", "change", "worse", "better")
"""Columns of summary.csv that have intervals, and are metrics."""

NOTES = (
    "dice: slices of the published protocol that were asked, pooled, mean over scans. change: paired with the row "
    "before. worse, better: share of a scan's slices whose own Dice fell or rose against the row before, mean over "
    "scans. parts: components of a slice's mask, mean over slices; several: share of slices with more than one. "
    "Intervals: 95 %, bootstrap over scans, none under 5 scans; scans of one fold share their support, so that the "
    "true ones are wider."
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Left:
    """What an audit leaves beside its settings. tables: name -> rows; pictures: name -> PNG."""

    experiment: str
    summary: Sequence[Mapping[str, Any]]
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    pictures: Mapping[str, bytes]
    left_out: Mapping[str, str]
    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: str = ""

    def __repr__(self) -> str:
        return f"Left({self.experiment}, {len(self.summary)} lines)"


def cca_left(found: CcaAudit, label: str, config: AuditConfig) -> Left:
    """Tables and figures of the audit of components."""
    summary = summary_of(found.scores, found.before, found.organs, config)
    seen = [
        line | {"floor": line["row"] in (COPY, ORACLE)}
        for line in summary
        if line["row"] not in (TRUTH, f"{COPY}, components 1", f"{COPY}, components n")
    ]
    pictures = {
        "dice": dice_bars(seen, "dice", f"{label}: Dice with and without components"),
        "harm": harm_bars(
            [line for line in seen if not line["row"].startswith(COPY)],
            f"{label}: slices that components help and harm",
        ),
        "parts": parts_bars(
            [score for score in found.scores if score.row == TRUTH],
            found.organs,
            "Parts of an organ in a slice, by the truth",
        ),
    }
    note = "The surest component alone is kept. Filled: found. Outlined: truth."
    shown = examples(found.examples, f"{label}: what keeping one component does", note)
    tables = {"slices": [asdict(score) for score in found.scores], "summary": summary}
    return Left(
        "cca-audit",
        summary,
        tables,
        pictures | ({"examples": shown} if shown else {}),
        found.left_out,
        notes="truth: the query's own labels; cut to components, they are the ceiling.",
    )


def ttt_left(found: TttAudit, label: str, config: AuditConfig) -> Left:
    """Tables and figures of the audit of test-time training."""
    summary = summary_of(found.scores, found.before, found.organs, config)
    cost = cost_of(found.costs)
    summary = [
        line | cost.get((line["row"], line["organ"]), NO_COST) | {"floor": line["row"] in FLOORS}
        for line in summary
    ]
    drifts = {
        row: [one.drift for one in found.costs if one.row == row and one.fold == found.costs[0].fold]
        for row in (list(found.steps)[-1], NO_RESET)
    }
    pictures = {
        "dice": dice_bars(
            summary, "dice", f"{label}: Dice of the slices asked, before and after training on them"
        ),
        "harm": harm_bars(summary, f"{label}: slices that test-time training helps and harms"),
        "steps": step_curves(summary, found.steps, f"{label}: training on the slice that is asked"),
        "drift": drift_lines(drifts, f"{label}: weights over the slices of a fold, with and without reset"),
    }
    note = f"{list(found.steps)[-1]} on the slice itself. Filled: found. Outlined: truth."
    shown = examples(found.examples, f"{label}: what test-time training does", note)
    tables = {
        "slices": [asdict(score) for score in found.scores],
        "training": [asdict(one) for one in found.costs],
        "summary": summary,
    }
    metrics = {
        f"{name}/{line['row']}": line[name]
        for line in summary
        if line["organ"] == MEAN and not math.isnan(line["seconds"])
        for name in ("drift", "seconds")
    }
    metrics |= {f"order/{row}": apart for row, apart in found.order.items()}
    return Left(
        "ttt-audit",
        summary,
        tables,
        pictures | ({"examples": shown} if shown else {}),
        found.left_out,
        metrics,
        "drift: length of the weights' change over their length, from the encoder as given, mean over slices; without "
        "reset it goes on from slice to slice of a fold. seconds: a slice, all in all. order: largest difference of an "
        "answer (score of organ less that of background) when slices are asked backwards.",
    )


NO_COST = {"drift": math.nan, "seconds": math.nan, "trained": 0}


def cost_of(costs: Sequence[Cost]) -> dict[tuple[str, str], dict[str, float]]:
    """(row, organ or MEAN) -> mean drift and seconds of its slices, and how many of them were trained on."""
    held: dict[tuple[str, str], list[Cost]] = {}
    for one in costs:
        for organ in (one.organ, MEAN):
            held.setdefault((one.row, organ), []).append(one)
    return {
        key: {
            "drift": sum(one.drift for one in own) / len(own),
            "seconds": sum(one.seconds for one in own) / len(own),
            "trained": sum(one.steps > 0 for one in own),
        }
        for key, own in held.items()
    }


def record(
    left: Left, volumes: Volumes, backbone: Backbone | None, config: AuditConfig, out: Path | str
) -> None:
    """Leaves an audit in `out` and in MLflow, one run, and prints its table.

    Raises DataError where `out` holds something that is not ours.
    """
    card = backbone.card if backbone is not None else None
    label = label_of(backbone)
    tags = {
        "backbone": card.digest if card else "",
        "backbone_label": label,
        "manifest": volumes.digest,
        "config": digest(config),
        "seed": config.seed,
        "experiment": left.experiment,
    }
    metrics = {
        f"{name}/{line['row']}.{line['organ']}": line[name] for line in left.summary for name in MEASURES
    }
    metrics |= left.metrics
    with replaced(out) as folder:
        whole = {
            "experiment": left.experiment,
            "backbone": {"digest": tags["backbone"], "label": label},
            "data": volumes.digest,
            "metrics": finite(metrics),
            "notes": f"{NOTES} {left.notes}",
            "left_out": left.left_out,
        }
        atomic_write(folder / METRICS, json.dumps(whole, indent=1) + "\n")
        atomic_write(folder / "config.json", to_json(config))
        name = f"{left.experiment}, {label}, {volumes.folder.name}"
        with open_run(folder, experiment=EXPERIMENT, name=name, params=flat(config), tags=tags) as run:
            run.dataset(volumes.folder.name, volumes.digest, "evaluation", {"scans": len(volumes)})
            step = int(card.origin.get("step", 0)) if card else 0
            model = run.evaluates(label, card.digest, step) if card else ""
            run.metrics(step, metrics, model)
            for title, rows in left.tables.items():
                run.table(title, rows)
            for title, png in left.pictures.items():
                run.figure(title, png)
            for file in (METRICS, "config.json"):
                run.artifact(folder / file)
    show(left)
    print(f"MLflow: {run.told}")


def label_of(backbone: Backbone | None) -> str:
    """What people read of an encoder."""
    return backbone.card.label if backbone is not None else "pixels"


def show(left: Left) -> None:
    """Prints a line for each row: Dice by organ and mean, what changed, slices worse and better; warns of what is
    left out."""
    from rich.table import Table

    organs = list(dict.fromkeys(line["organ"] for line in left.summary))
    table = Table(title=f"{left.experiment}: percent [95 % interval over scans]", title_justify="left")
    table.add_column("", no_wrap=True)
    trained = "seconds" in left.summary[0]
    more = ("drift", "s/slice") if trained else ("parts",)
    for head in (*organs, "change of mean", "slices worse", "better", *more):
        table.add_column(head, justify="right", no_wrap=True)
    for row in dict.fromkeys(line["row"] for line in left.summary):
        own = {line["organ"]: line for line in left.summary if line["row"] == row}
        mean = own[MEAN]
        cells = [percent(own[organ], "dice", spread=organ == MEAN) for organ in organs]
        if row == mean["before"]:
            cells += ["", "", ""]
        else:
            cells += [percent(mean, name, spread=name != "better") for name in ("change", "worse", "better")]
        if trained:
            cells += [
                percent(mean, "drift", spread=False),
                "-" if math.isnan(mean["seconds"]) else f"{mean['seconds']:.2f}",
            ]
        else:
            cells.append(f"{mean['parts']:.2f}")
        table.add_row(row, *cells)
    tables_console().print(table)
    for place, reason in left.left_out.items():
        log.warning("left out: %s: %s", place, reason)


def percent(line: Mapping[str, Any], name: str, *, spread: bool) -> str:
    """`53.1 [50.2, 56.0]`, or the value alone; `-` for none."""
    if math.isnan(line[name]):
        return "-"
    if not spread or math.isnan(line[f"{name}_low"]):
        return f"{100 * line[name]:.1f}"
    value, low, high = (100 * line[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"
