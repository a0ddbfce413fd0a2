"""The record of a zero-shot experiment on ultrasound frames: its metrics.json, tables, figures and summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.record import (
    METRICS,
    DatasetUse,
    ExperimentRecord,
    MetricSeries,
    pretraining_step,
    publish,
    run_tags,
)
from .domains import SETUP_FIELDS, Domain, domains_digest

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from ...platform.models.backbone import Backbone
    from .config import ZeroshotConfig

EXPERIMENT = "vetdino/zeroshot"
"""MLflow experiment of these runs."""

INTERVALS = (
    "95 % over images, by bootstrap; frames of one sweep are not independent, so that the true ones are wider; "
    "none under 5 images. Standard deviations are over images (ddof 0)."
)


@dataclass(frozen=True, slots=True, eq=False)
class ZeroshotResult:
    """The result of one experiment.

    metrics: `group/name` -> value. tables: name -> rows; `images` has a row for each image. pictures: name -> PNG.
    pages: file name -> text. facts: what was drawn and chosen. left_out: what was not measured -> why.
    """

    metrics: Mapping[str, float]
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    pictures: Mapping[str, bytes]
    pages: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"ZeroshotResult({len(self.metrics)} metrics, {len(self.pictures)} pictures)"


def record(
    experiment: str,
    result: ZeroshotResult,
    domains: Sequence[Domain],
    backbone: Backbone,
    config: ZeroshotConfig,
    out: Path | str,
) -> None:
    """Write a result to `out` and to MLflow, and print its summary.

    Raises DataError where `out` holds something that is not ours.
    """
    data, card = domains_digest(domains), backbone.card
    counts = {domain.name: len(domain.frames) for domain in domains}
    publish(
        ExperimentRecord(
            experiment=EXPERIMENT,
            name=f"{experiment}, {card.label}",
            config=config,
            tags=run_tags(config, data, card.digest, card.label, experiment=experiment),
            identity={
                "experiment": experiment,
                "backbone": {"digest": card.digest, "label": card.label},
                "data": data,
                "domains": {domain.name: _domain_facts(domain) for domain in domains},
            },
            metrics=result.metrics,
            details={
                "intervals": INTERVALS,
                "facts": result.facts,
                "left_out": result.left_out,
                "warnings": result.warnings,
            },
            series=[MetricSeries(result.metrics, pretraining_step(card), card)],
            datasets=[DatasetUse(" + ".join(counts), data, counts)],
            tables=result.tables,
            figures=result.pictures,
            pages=result.pages,
            terminal=list(_terminal(result)),
            warnings=list(_domain_warnings(domains)),
        ),
        out,
    )


def _domain_facts(domain: Domain) -> dict[str, Any]:
    return {
        **{fact: getattr(domain, fact) for fact in SETUP_FIELDS},
        "frames": len(domain.frames),
        "labelled": domain.labelled,
        "left_out": dict(domain.left_out),
        "doubts": dict(domain.doubts),
    }


def _terminal(result: ZeroshotResult) -> Iterator[RenderableType]:
    if "seeds" in result.tables:
        yield _summary_table(result.tables["seeds"], "mean of the sets", "draws, and the worst")
    elif "summary" in result.tables:
        yield _summary_table(result.tables["summary"], "mean", "images")
    for name, reason in result.left_out.items():
        yield f"left out: {name} ({reason})"
    if result.warnings:
        yield f"{len(result.warnings)} warnings about sets, each with its set's name, are in {METRICS}"


def _domain_warnings(domains: Sequence[Domain]) -> Iterator[str]:
    for domain in domains:
        for file, reason in domain.left_out.items():
            yield f"{domain.name}: {file} left out: {reason}"
        for frame, doubt in domain.doubts.items():
            yield f"{domain.name}/{frame}: {doubt}"


def _summary_table(rows: Sequence[Mapping[str, Any]], what: str, over: str) -> Table:
    """Mean Dice, its standard deviation, over seeds the worst, and the number of empty masks: a line for each domain
    and set, a column for each method."""
    from rich.table import Table

    methods = list(dict.fromkeys(row["row"] for row in rows))
    cells = {(row["domain"], row["part"], row["row"]): row for row in rows}
    table = Table(title=f"Dice, {what} ± standard deviation over {over}", title_justify="left")
    for head in ("domain", "set"):
        table.add_column(head, no_wrap=True)
    for head in ("images", *methods):
        table.add_column(head, justify="right", no_wrap=True)
    for domain, part in dict.fromkeys((row["domain"], row["part"]) for row in rows):
        line = [cells.get((domain, part, method)) for method in methods]
        values = ["" if one is None else _cell(one) for one in line]
        table.add_row(domain, part, str(next(one for one in line if one)["images"]), *values)
    return table


def _cell(row: Mapping[str, Any]) -> str:
    empty = f", {row['empty']} empty" if row["empty"] else ""
    worst = f", {row['dice_worst']:.3f}" if "dice_worst" in row else ""
    return f"{row['dice']:.3f} ± {row['dice_std']:.2f}{worst}{empty}"
