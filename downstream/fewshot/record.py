"""The record of a few-shot experiment: its metrics.json, tables, figures, and the summary on the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...platform.core.config import to_json
from ..common.record import (
    DatasetUse,
    ExperimentRecord,
    MetricSeries,
    Rows,
    pretraining_step,
    publish,
    run_tags,
)
from ..volumes.volume import Volumes
from .figures import dice_bars, example_overlays
from .finished import FinishedQueries
from .results import FewshotResults
from .sources import trained_digest
from .summary import MEAN, MEASURES, NOTES, summary_lines

if TYPE_CHECKING:
    from rich.table import Table

    from ...platform.models.backbone import Backbone

EXPERIMENT = "vetdino/fewshot"
"""MLflow experiment of these runs."""


@dataclass(frozen=True, slots=True, eq=False)
class FewshotExperiment:
    """What was measured: the command, its config, the prepared folders and the encoders.

    backbones: source -> backbone, None for pixels. tags: further tags of the run, such as the folder of trained
    encoders.
    """

    command: str
    config: Any
    volumes: tuple[Volumes, ...]
    backbones: Mapping[str, Backbone | None]
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The names of several encoders, or the label of the only one."""
        if len(self.backbones) > 1:
            return ", ".join(self.backbones)
        [backbone] = self.backbones.values()
        return backbone.card.label if backbone is not None else "pixels"

    @property
    def data(self) -> str:
        """Digests of the prepared folders, in their order."""
        return " ".join(volumes.digest for volumes in self.volumes)

    def __repr__(self) -> str:
        return f"FewshotExperiment({self.command}, {self.label})"


def finished_queries(
    experiment: FewshotExperiment, out: Path | str, trained: Sequence[Path] = (), **more: Any
) -> FinishedQueries:
    """Where the experiment's finished queries are kept, apart from those of any other.

    more: whatever else its results depend on.
    """
    import torch

    identity = {
        "command": experiment.command,
        "config": json.loads(to_json(experiment.config)),
        "data": experiment.data,
        "backbones": {
            name: one.card.digest if one is not None else "" for name, one in experiment.backbones.items()
        },
        "trained": [trained_digest(folder) for folder in trained],
        "torch": torch.__version__,
        **more,
    }
    return FinishedQueries(out, identity)


def record(
    results: FewshotResults,
    experiment: FewshotExperiment,
    out: Path | str,
    *,
    references: Mapping[str, str] | None = None,
    plot: Callable[[Rows, str], Mapping[str, bytes]] | None = None,
    tables: Mapping[str, Rows] | None = None,
) -> list[dict[str, Any]]:
    """Write the results of one prepared folder to `out` and to MLflow, print and return their summary.

    references: row -> the row that it is compared with; by default the first. plot: summary and label -> figures,
    instead of bars. tables: further ones; an empty one is not written. Raises DataError where `out` holds something
    that is not ours.
    """
    summary = summary_lines(results, experiment.config, references)
    label = experiment.label
    figures = {**(plot or bar_figures)(summary, label), "examples": example_overlays(results, label)}
    record_summary(summary, results, experiment, out, figures=figures, tables=tables)
    return summary


def record_summary(
    summary: Rows,
    results: FewshotResults,
    experiment: FewshotExperiment,
    out: Path | str,
    *,
    figures: Mapping[str, bytes],
    tables: Mapping[str, Rows] | None = None,
    title: str = "",
) -> None:
    """Write results and their summary to `out` and to MLflow, and print it under a title.

    Raises DataError where `out` holds something that is not ours.
    """
    command, label, data = experiment.command, experiment.label, experiment.data
    cards = {name: one.card for name, one in experiment.backbones.items() if one is not None}
    first = next(iter(cards.values()), None)
    backbone = first.digest if first else ""
    metrics = _metrics_by_source(summary)
    # Not a source: seconds are charted with the first backbone's step.
    metrics[""] = {f"seconds/{source} a scan": value for source, value in results.seconds.items()}
    where = " + ".join(volumes.folder.name for volumes in experiment.volumes)
    publish(
        ExperimentRecord(
            experiment=EXPERIMENT,
            name=f"{command}, {label}, {where}",
            config=experiment.config,
            tags=run_tags(experiment.config, data, backbone, label, experiment=command, **experiment.tags),
            identity={
                "experiment": command,
                "backbone": {"digest": backbone, "label": label},
                "backbones": {
                    name: {"digest": one.digest, "label": one.label} for name, one in cards.items()
                },
                "data": data,
                "asked": dict(experiment.tags),
            },
            metrics={name: value for values in metrics.values() for name, value in values.items()},
            details={
                "organs": dict(results.organs),
                "notes": NOTES,
                "left_out": dict(results.left_out),
                "chosen": chosen_features(results),
            },
            series=[
                MetricSeries(values, pretraining_step(cards.get(source, first)), cards.get(source))
                for source, values in metrics.items()
            ],
            datasets=[
                DatasetUse(volumes.folder.name, volumes.digest, {"scans": len(volumes)})
                for volumes in experiment.volumes
            ],
            tables={"scans": list(map(asdict, results.scores)), "summary": summary, **(tables or {})},
            figures=figures,
            terminal=[_summary_table(summary, title), *_choice_lines(results)],
            warnings=list(_warnings(summary, results.left_out)),
        ),
        out,
    )


def chosen_features(results: FewshotResults) -> dict[str, dict[str, dict[str, str]]]:
    """Row -> organ -> fold -> the features that the fold's support chose; without rows that had no choice."""
    chosen: dict[str, dict[str, dict[str, str]]] = {}
    for score in results.scores:
        if score.chosen:
            by_fold = chosen.setdefault(score.row, {}).setdefault(score.organ, {})
            by_fold[str(score.fold)] = score.chosen
    return chosen


def _choice_lines(results: FewshotResults) -> Iterator[str]:
    """The main row's choices, a line for each organ."""
    for row, organs in list(chosen_features(results).items())[:1]:
        for organ, by_fold in organs.items():
            text = "; ".join(f"fold {fold}: {chosen}" for fold, chosen in by_fold.items())
            yield f"{row}, {organ}: chosen by the support, {text}"


def _metrics_by_source(summary: Rows) -> dict[str, dict[str, float]]:
    """Source -> `dice/ROW.ORGAN` and the other measures -> value."""
    metrics: dict[str, dict[str, float]] = {}
    for line in summary:
        values = metrics.setdefault(line["source"], {})
        values |= {f"{name}/{line['row']}.{line['organ']}": line[name] for name in MEASURES}
    return metrics


def bar_figures(summary: Rows, label: str) -> dict[str, bytes]:
    """Both kinds of Dice as bars."""
    return {
        "dice": dice_bars(summary, "dice", f"{label}: Dice by the published protocol"),
        "volume_dice": dice_bars(summary, "volume_dice", f"{label}: Dice of whole volumes, no truth used"),
    }


def _summary_table(summary: Rows, title: str) -> Table:
    """A line for each row: Dice by organ and mean, whole volumes, HD95, difference from its reference."""
    from rich.table import Table

    organs = list(dict.fromkeys(line["organ"] for line in summary))
    references = list(dict.fromkeys(line["against"] for line in summary))
    table = Table(title=title or "Dice in percent [95 % interval over scans]", title_justify="left")
    table.add_column("", no_wrap=True)
    difference = f"less {references[0]}" if len(references) == 1 else "less its reference"
    for head in (*organs, "whole volumes", "HD95, mm", "missed", difference, "p"):
        table.add_column(head, justify="right")
    for row in dict.fromkeys(line["row"] for line in summary):
        by_organ = {line["organ"]: line for line in summary if line["row"] == row}
        mean = by_organ[MEAN]
        hd95 = "-" if math.isnan(mean["volume_hd95"]) else f"{mean['volume_hd95']:.1f}"
        cells = [percent(by_organ[organ], "dice", interval=organ == MEAN) for organ in organs]
        cells += [percent(mean, "volume_dice"), hd95, str(mean["missed"])]
        has_reference = mean["against"] != row
        cells.append(percent(mean, "delta", sign="+") if has_reference else "")
        cells.append(f"{mean['p']:.2g}" if has_reference and not math.isnan(mean["p"]) else "")
        table.add_row(row, *cells)
    return table


def _warnings(summary: Rows, left_out: Mapping[str, str]) -> Iterator[str]:
    """Notes on organs that few scans show, and what was left out."""
    for organ, note in {line["organ"]: line["note"] for line in summary if line["note"]}.items():
        yield f"{organ}: {note}"
    for name, reason in left_out.items():
        yield f"left out: {name}: {reason}"


def percent(line: Mapping[str, Any], name: str, *, interval: bool = True, sign: str = "") -> str:
    """A share of 0..1 as `53.1 [50.2, 56.0]`, or without its interval; `-` for NaN.

    >>> percent({"dice": 0.531, "dice_low": 0.502, "dice_high": 0.56}, "dice")
    '53.1 [50.2, 56.0]'
    """
    if math.isnan(line[name]):
        return "-"
    value = f"{100 * line[name]:{sign}.1f}"
    if not interval or math.isnan(line[f"{name}_low"]):
        return value
    low, high = (100 * line[f"{name}_{end}"] for end in ("low", "high"))
    return f"{value} [{low:{sign}.1f}, {high:{sign}.1f}]"
