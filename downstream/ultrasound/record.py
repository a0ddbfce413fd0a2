"""What an experiment on frames found, and how it is left: a folder, a table on the terminal, a run in MLflow.

The folder appears whole or not at all; what an earlier call left there goes when the new one is complete.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...platform.core.config import atomic_write, digest, flat, to_json
from ...platform.core.progress import tables_console
from ...platform.core.runs import open_run
from ..common.record import METRICS, finite, replaced
from .frames import FACTS, Domain, digest_of

if TYPE_CHECKING:
    from ...platform.models.backbone import Backbone
    from .answers import ZeroshotConfig

EXPERIMENT = "vetdino/zeroshot"
"""Where MLflow keeps these runs."""

INTERVALS = (
    "95 % over images, by bootstrap; frames of one sweep are not independent, so that the true ones are wider; "
    "none under 5 images. Standard deviations are over images (ddof 0)."
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What an experiment found.

    metrics: `group/name` -> value. tables: name -> rows, `images` has a row for each image. pictures: name -> PNG.
    pages: file name -> text. facts: what was drawn and chosen. left_out: what was asked for and why it is not
    there.
    """

    metrics: Mapping[str, float]
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    pictures: Mapping[str, bytes]
    pages: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Found({len(self.metrics)} metrics, {len(self.pictures)} pictures)"


def record(
    experiment: str,
    found: Found,
    domains: Sequence[Domain],
    backbone: Backbone,
    config: ZeroshotConfig,
    out: Path | str,
) -> None:
    """Leaves what was found in `out` and in MLflow, one run, and prints the tables.

    Raises DataError where `out` holds something that is not ours.
    """
    data = digest_of(domains)
    card = backbone.card
    tags = {
        "backbone": card.digest,
        "backbone_label": card.label,
        "manifest": data,
        "config": digest(config),
        "seed": config.seed,
        "experiment": experiment,
    }
    with replaced(out) as folder:
        _write(folder, experiment, found, domains, backbone, config, data)
        name = f"{experiment}, {card.label}"
        with open_run(folder, experiment=EXPERIMENT, name=name, params=flat(config), tags=tags) as run:
            counts = {domain.name: len(domain.frames) for domain in domains}
            run.dataset(" + ".join(counts), data, "evaluation", counts)
            step = int(card.origin.get("step", 0))
            run.metrics(step, found.metrics, run.evaluates(card.label, card.digest, step))
            for title, rows in found.tables.items():
                run.table(title, rows)
            for title, png in found.pictures.items():
                run.figure(title, png)
            for file in (METRICS, "config.json", *found.pages):
                run.artifact(folder / file)
    show(found, domains)
    print(f"MLflow: {run.told}")


def show(found: Found, domains: Sequence[Domain]) -> None:
    """Prints the summary, what was left out and what is odd; warnings go to stderr."""
    console = tables_console()
    if "summary" in found.tables:
        console.print(_summary(found.tables["summary"]))
    for place, reason in found.left_out.items():
        console.print(f"left out: {place} ({reason})", markup=False)
    for domain in domains:
        for file, reason in domain.left_out.items():
            log.warning("%s: %s left out: %s", domain.name, file, reason)
        for frame, doubt in domain.doubts.items():
            log.warning("%s/%s: %s", domain.name, frame, doubt)
    if found.warnings:
        console.print(
            f"{len(found.warnings)} warnings about sets, each with its set's name, are in {METRICS}"
        )


def _write(
    folder: Path,
    experiment: str,
    found: Found,
    domains: Sequence[Domain],
    backbone: Backbone,
    config: ZeroshotConfig,
    data: str,
) -> None:
    """metrics.json, config.json and the pages; the run writes tables and pictures."""
    whole = {
        "experiment": experiment,
        "backbone": {"digest": backbone.card.digest, "label": backbone.card.label},
        "data": data,
        "domains": {domain.name: _told(domain) for domain in domains},
        "metrics": finite(found.metrics),
        "intervals": INTERVALS,
        "facts": found.facts,
        "left_out": found.left_out,
        "warnings": found.warnings,
    }
    atomic_write(folder / METRICS, json.dumps(whole, indent=1) + "\n")
    atomic_write(folder / "config.json", to_json(config))
    for file, text in found.pages.items():
        atomic_write(folder / file, text)


def _told(domain: Domain) -> dict[str, Any]:
    return {
        **{fact: getattr(domain, fact) for fact in FACTS},
        "frames": len(domain.frames),
        "labelled": domain.labelled,
        "left_out": dict(domain.left_out),
        "doubts": dict(domain.doubts),
    }


def _summary(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Mean Dice with its standard deviation: a line for each domain and set, a column for each way."""
    from rich.table import Table

    ways = list(dict.fromkeys(row["row"] for row in rows))
    cells = {(row["domain"], row["part"], row["row"]): row for row in rows}
    table = Table(title="Dice, mean ± standard deviation over images", title_justify="left")
    for head in ("domain", "set"):
        table.add_column(head, no_wrap=True)
    for head in ("images", *ways):
        table.add_column(head, justify="right", no_wrap=True)
    for domain, part in dict.fromkeys((row["domain"], row["part"]) for row in rows):
        own = [cells.get((domain, part, way)) for way in ways]
        told = ["" if one is None else f"{one['dice']:.3f} ± {one['dice_std']:.2f}" for one in own]
        table.add_row(domain, part, str(next(one for one in own if one)["images"]), *told)
    return table
