"""What a few-shot experiment leaves: tables, metrics.json, figures, one MLflow run; and what it prints."""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...platform.core.config import digest, flat, to_json
from ...platform.core.files import atomic_write
from ...platform.core.progress import tables_console
from ...platform.core.runs import Run, open_run
from ..common.record import METRICS, finite, replaced
from ..volumes.volume import Volumes
from .figures import dice_bars, overlays
from .measure import Evaluated
from .summary import MEAN, MEASURES, NOTES, summary_of

if TYPE_CHECKING:
    from ...platform.models.backbone import Backbone

EXPERIMENT = "vetdino/fewshot"
"""Where MLflow keeps these runs."""

Lines = Sequence[Mapping[str, Any]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What was done, with what and on what. backbones: source -> backbone, None where it is no network.

    names: further tags of the run, such as the folder of trained encoders.
    """

    experiment: str
    config: Any
    volumes: tuple[Volumes, ...]
    backbones: Mapping[str, Backbone | None]
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What was measured, in a word or two."""
        if len(self.backbones) > 1:
            return ", ".join(self.backbones)
        [backbone] = self.backbones.values()
        return backbone.card.label if backbone is not None else "pixels"

    @property
    def data(self) -> str:
        """Digests of the prepared folders, in their order."""
        return " ".join(volumes.digest for volumes in self.volumes)

    def __repr__(self) -> str:
        return f"Work({self.experiment}, {self.label})"


def record(
    found: Evaluated,
    work: Work,
    out: Path | str,
    *,
    against: Mapping[str, str] | None = None,
    drawn: Callable[[Lines, str], Mapping[str, bytes]] | None = None,
    tables: Mapping[str, Lines] | None = None,
) -> list[dict[str, Any]]:
    """Leaves what one prepared folder's scores say in `out` and in MLflow, prints the table, gives back its lines.

    against: row -> the row that it is held against, the first where none is given. drawn: lines and a label ->
    pictures, in place of the bars. tables: further ones; one without lines is not left. Raises DataError where `out`
    holds something that is not ours.
    """
    summary = summary_of(found, work.config, against)
    told = leave(
        work,
        out,
        metrics=metrics_of(summary) | seconds_of(found),
        tables={"scans": [asdict(score) for score in found.scores], "summary": summary, **(tables or {})},
        pictures={**(drawn or bars_of)(summary, work.label), "examples": overlays(found, work.label)},
        facts={
            "organs": {str(number): name for number, name in found.organs.items()},
            "notes": NOTES,
            "left_out": dict(found.left_out),
        },
    )
    show(summary, found.left_out)
    print(told)
    return summary


def leave(
    work: Work,
    out: Path | str,
    *,
    metrics: Mapping[str, Mapping[str, float]],
    tables: Mapping[str, Lines],
    pictures: Mapping[str, bytes],
    facts: Mapping[str, Any],
) -> str:
    """A folder with metrics.json, config.json, a CSV a table, figures/, and one MLflow run; how to look at that.

    metrics: source -> name -> value; those of a source that is a backbone are told of its logged model too. Raises
    DataError where `out` holds something that is not ours.
    """
    cards = {name: one.card for name, one in work.backbones.items() if one is not None}
    first = next(iter(cards.values()), None)
    tags = {
        "backbone": first.digest if first else "",
        "backbone_label": work.label,
        "manifest": work.data,
        "config": digest(work.config),
        "seed": work.config.seed,
        "experiment": work.experiment,
        **work.names,
    }
    whole = {
        "experiment": work.experiment,
        "backbone": {"digest": tags["backbone"], "label": work.label},
        "backbones": {name: {"digest": card.digest, "label": card.label} for name, card in cards.items()},
        "data": work.data,
        "asked": dict(work.names),
        "metrics": finite({name: value for own in metrics.values() for name, value in own.items()}),
        **facts,
    }
    where = " + ".join(volumes.folder.name for volumes in work.volumes)
    with replaced(out) as folder:
        atomic_write(folder / METRICS, json.dumps(whole, indent=1) + "\n")
        atomic_write(folder / "config.json", to_json(work.config))
        name = f"{work.experiment}, {work.label}, {where}"
        with open_run(folder, experiment=EXPERIMENT, name=name, params=flat(work.config), tags=tags) as run:
            for volumes in work.volumes:
                run.log_dataset(volumes.folder.name, volumes.digest, "evaluation", {"scans": len(volumes)})
            _tell(run, metrics, cards)
            for title, rows in tables.items():
                run.log_table(title, rows)
            for title, png in pictures.items():
                run.log_figure(title, png)
            for file in (METRICS, "config.json"):
                run.log_artifact(folder / file)
    return f"MLflow: {run.view_hint}"


def _tell(run: Run, metrics: Mapping[str, Mapping[str, float]], cards: Mapping[str, Any]) -> None:
    """Values of backbones by the step of their pretraining, all others by that of the first."""
    steps = {name: int(card.origin.get("step", 0)) for name, card in cards.items()}
    first = next(iter(steps.values()), 0)
    for source, values in metrics.items():
        model, step = "", steps.get(source, first)
        if source in cards:
            model = run.log_evaluated_model(cards[source].label, cards[source].digest, step)
        run.log_metrics(step, values, model)


def metrics_of(summary: Lines) -> dict[str, dict[str, float]]:
    """Source -> `dice/ROW.ORGAN` and its like -> value."""
    metrics: dict[str, dict[str, float]] = defaultdict(dict)
    for line in summary:
        for name in MEASURES:
            metrics[line["source"]][f"{name}/{line['row']}.{line['organ']}"] = line[name]
    return dict(metrics)


def seconds_of(found: Evaluated) -> dict[str, dict[str, float]]:
    """Under a name that is no source: what a scan took, by source."""
    return {"": {f"seconds/{source} a scan": value for source, value in found.seconds.items()}}


def bars_of(summary: Lines, label: str) -> dict[str, bytes]:
    """Both kinds of Dice as bars."""
    return {
        "dice": dice_bars(summary, "dice", f"{label}: Dice by the published protocol"),
        "volume_dice": dice_bars(summary, "volume_dice", f"{label}: Dice of whole volumes, no truth used"),
    }


# On a terminal -----------------------------------------------------------------------------------


def show(summary: Lines, left_out: Mapping[str, str], title: str = "") -> None:
    """Prints a line for each row: Dice by organ and mean, whole volumes, HD95, how far it is from its reference.

    Warns of what was left out and of organs that few scans show.
    """
    from rich.table import Table

    organs = list(dict.fromkeys(line["organ"] for line in summary))
    held = list(dict.fromkeys(line["against"] for line in summary))
    table = Table(title=title or "Dice in percent [95 % interval over scans]", title_justify="left")
    table.add_column("", no_wrap=True)
    reference = f"less {held[0]}" if len(held) == 1 else "less its reference"
    for head in (*organs, "whole volumes", "HD95, mm", "missed", reference, "p"):
        table.add_column(head, justify="right")
    for row in dict.fromkeys(line["row"] for line in summary):
        own = {line["organ"]: line for line in summary if line["row"] == row}
        every = own[MEAN]
        far = "-" if math.isnan(every["volume_hd95"]) else f"{every['volume_hd95']:.1f}"
        cells = [_percent(own[organ], "dice", spread=organ == MEAN) for organ in organs]
        cells += [_percent(every, "volume_dice", spread=True), far, str(every["missed"])]
        apart = every["against"] != row
        cells.append(_percent(every, "delta", spread=True, sign="+") if apart else "")
        cells.append(f"{every['p']:.2g}" if apart and not math.isnan(every["p"]) else "")
        table.add_row(row, *cells)
    tables_console().print(table)
    for organ, note in {line["organ"]: line["note"] for line in summary if line["note"]}.items():
        log.warning("%s: %s", organ, note)
    for place, reason in left_out.items():
        log.warning("left out: %s: %s", place, reason)


def _percent(line: Mapping[str, Any], name: str, *, spread: bool, sign: str = "") -> str:
    value, low, high = (100 * line[f"{name}{end}"] for end in ("", "_low", "_high"))
    if math.isnan(value):
        return "-"
    ends = f" [{low:{sign}.1f}, {high:{sign}.1f}]" if spread and not math.isnan(low) else ""
    return f"{value:{sign}.1f}{ends}"
