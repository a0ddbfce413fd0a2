"""What a few-shot evaluation leaves: scans.csv, summary.csv, metrics.json, figures, one MLflow run, a table to read."""

# N scans, O organs.

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..platform.config import atomic_write, digest, flat, to_json
from ..platform.runs import open_run
from .fewshot import Evaluated, FewshotConfig
from .fewshot_figures import dice_bars, overlays
from .fewshot_protocol import intervals
from .ultrasound_record import METRICS, finite, replaced
from .volumes import Volumes

if TYPE_CHECKING:
    from ..platform.backbone import Backbone

EXPERIMENT = "vetdino/fewshot"
"""Where MLflow keeps these runs."""

MEAN = "mean"
"""In place of an organ: the mean of the organs' means."""

NOTES = (
    "dice: published protocol, mean over scans of 2TP/(2TP+FP+FN) over an organ's slices, each told by the query's "
    "own truth from which third of the organ it is. volume_dice: whole scans, no truth used. volume_hd95: mm, of "
    "scans where both masks are not empty; missed: the others. Intervals: 95 %, bootstrap over scans, none under 5 "
    "scans; scans of one fold share their support, so that the true ones are wider. behind: dice of the first row "
    "less this one, paired."
)

log = logging.getLogger(__name__)


def summary_of(found: Evaluated, config: FewshotConfig) -> list[dict[str, Any]]:
    """A line for each row and organ, and for the organs' mean; see NOTES."""
    names = [*found.organs.values(), MEAN]
    first = _values(found, found.scores[0].row, "dice")
    lines = []
    for row in dict.fromkeys(score.row for score in found.scores):
        dice_NO = _values(found, row, "dice")
        measured = {
            "dice": intervals(dice_NO, config.resamples, config.seed),
            "volume_dice": intervals(_values(found, row, "volume_dice"), config.resamples, config.seed),
            "volume_hd95": intervals(_values(found, row, "volume_hd95"), config.resamples, config.seed),
            "behind": intervals(first - dice_NO, config.resamples, config.seed),
        }
        known_O = (~np.isnan(dice_NO)).sum(axis=0)
        missed_O = known_O - (~np.isnan(_values(found, row, "volume_hd95"))).sum(axis=0)
        for place, organ in enumerate(names):
            every = organ == MEAN
            line = {"row": row, "organ": organ}
            line["scans"] = len(dice_NO) if every else int(known_O[place])
            line["missed"] = int(missed_O.sum() if every else missed_O[place])
            for name, (mean_O, (low_O, high_O)) in measured.items():
                line |= {
                    name: float(mean_O[place]),
                    f"{name}_low": float(low_O[place]),
                    f"{name}_high": float(high_O[place]),
                }
            lines.append(line)
    return lines


def _values(found: Evaluated, row: str, name: str) -> np.ndarray:
    """(N, O) of one row, NaN where a scan does not show an organ."""
    scans = list(dict.fromkeys(score.scan for score in found.scores))
    organs = list(found.organs.values())
    values_NO = np.full((len(scans), len(organs)), np.nan)
    for score in found.scores:
        if score.row == row:
            values_NO[scans.index(score.scan), organs.index(score.organ)] = getattr(score, name)
    return values_NO


def record(
    found: Evaluated, volumes: Volumes, backbone: Backbone | None, config: FewshotConfig, out: Path | str
) -> list[dict[str, Any]]:
    """Leaves what was found in `out` and in MLflow, one run, prints the table and gives back its lines.

    Raises DataError where `out` holds something that is not ours.
    """
    summary = summary_of(found, config)
    metrics = {
        f"{name}/{line['row']}.{line['organ']}": line[name]
        for line in summary
        for name in ("dice", "volume_dice", "volume_hd95")
    }
    metrics |= {f"seconds/{source} a scan": value for source, value in found.seconds.items()}
    card = backbone.card if backbone is not None else None
    label = card.label if card else "pixels"
    tags = {
        "backbone": card.digest if card else "",
        "backbone_label": label,
        "manifest": volumes.digest,
        "config": digest(config),
        "seed": config.seed,
        "experiment": "evaluate",
    }
    pictures = {"dice": dice_bars(summary, "dice", f"{label}: Dice by the published protocol")}
    pictures["volume_dice"] = dice_bars(
        summary, "volume_dice", f"{label}: Dice of whole volumes, no truth used"
    )
    pictures["examples"] = overlays(found, label)
    with replaced(out) as folder:
        whole = {
            "experiment": "evaluate",
            "backbone": {"digest": tags["backbone"], "label": label},
            "data": volumes.digest,
            "organs": {str(number): name for number, name in found.organs.items()},
            "metrics": finite(metrics),
            "notes": NOTES,
            "left_out": found.left_out,
        }
        atomic_write(folder / METRICS, json.dumps(whole, indent=1) + "\n")
        atomic_write(folder / "config.json", to_json(config))
        name = f"evaluate, {label}, {volumes.folder.name}"
        with open_run(folder, experiment=EXPERIMENT, name=name, params=flat(config), tags=tags) as run:
            run.dataset(volumes.folder.name, volumes.digest, "evaluation", {"scans": len(volumes)})
            step = int(card.origin.get("step", 0)) if card else 0
            model = run.evaluates(label, card.digest, step) if card else ""
            run.metrics(step, metrics, model)
            run.table("scans", [asdict(score) for score in found.scores])
            run.table("summary", summary)
            for title, png in pictures.items():
                run.figure(title, png)
            for file in (METRICS, "config.json"):
                run.artifact(folder / file)
        where = f"{run.view_command}, then {run.link}" if run.view_command else run.link
        link = f"MLflow: {where}" if run.run_id else "no MLflow run was recorded"
    show(summary, found.left_out)
    print(link)
    return summary


def show(summary: Sequence[Mapping[str, Any]], left_out: Mapping[str, str]) -> None:
    """Prints a line for each row: Dice by organ and mean, whole volumes, HD95; warns of what was left out."""
    from rich.console import Console
    from rich.table import Table

    organs = list(dict.fromkeys(line["organ"] for line in summary))
    table = Table(title="Dice in percent [95 % interval over scans]", title_justify="left")
    table.add_column("", no_wrap=True)
    for head in (*organs, "mean, whole volumes", "HD95, mm", "missed"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in dict.fromkeys(line["row"] for line in summary):
        own = {line["organ"]: line for line in summary if line["row"] == row}
        cells = [_percent(own[organ], "dice", spread=organ == MEAN) for organ in organs]
        hd95 = own[MEAN]["volume_hd95"]
        far = "-" if math.isnan(hd95) else f"{hd95:.1f}"
        table.add_row(
            row, *cells, _percent(own[MEAN], "volume_dice", spread=True), far, str(own[MEAN]["missed"])
        )
    console = Console()
    (console if console.is_terminal else Console(width=180)).print(table)
    for place, reason in left_out.items():
        log.warning("left out: %s: %s", place, reason)


def _percent(line: Mapping[str, Any], name: str, *, spread: bool) -> str:
    value, low, high = (100 * line[f"{name}{end}"] for end in ("", "_low", "_high"))
    if math.isnan(value):
        return "-"
    return f"{value:.1f} [{low:.1f}, {high:.1f}]" if spread and not math.isnan(low) else f"{value:.1f}"
