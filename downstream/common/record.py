"""The record of one experiment: a folder of files, one MLflow run, tables on the terminal.

An experiment builds an `ExperimentRecord` and hands it on; this module alone writes and prints.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...platform.core.config import digest, flat, to_json
from ...platform.core.errors import DataError
from ...platform.core.files import atomic_write
from ...platform.core.location import Location
from ...platform.core.progress import tables_console
from ...platform.core.runs import Run, open_run

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ...platform.models.card import Card

METRICS = "metrics.json"

CONFIG = "config.json"

FINISHED = "finished_queries"
"""What a measurement keeps in its folder until its record replaces all of it."""

LEFT_BY_US = frozenset(
    {METRICS, CONFIG, "params.json", "run.json", "metrics.jsonl", "figures", "masks", "overlays", FINISHED}
)
"""What a folder of ours may hold beside tables (.csv) and pages (.html)."""

Rows = Sequence[Mapping[str, Any]]
"""Lines of a table; all have the same keys."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class DatasetUse:
    """Data that an experiment measured on. digest: of its manifest; counts: such as studies by split."""

    name: str
    digest: str
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class MetricSeries:
    """Metrics for MLflow's charts, at one step of a pretraining.

    card: of the backbone that they were measured of, whose logged model gets them; None: of no backbone.
    """

    values: Mapping[str, float]
    step: int = 0
    card: Card | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ExperimentRecord:
    """What one experiment leaves.

    experiment, name, tags: MLflow's experiment, name and tags of the run. config: a dataclass. identity, metrics,
    details: the content of metrics.json, in this order.
    series: metrics for MLflow. tables: name -> rows (CSV). figures: name -> PNG. pages: file name -> text.
    attachments: files of which MLflow gets a copy. terminal, warnings: what is printed and logged.
    """

    experiment: str
    name: str
    config: Any
    tags: Mapping[str, Any]
    identity: Mapping[str, Any]
    metrics: Mapping[str, float]
    details: Mapping[str, Any]
    series: Sequence[MetricSeries]
    datasets: Sequence[DatasetUse]
    tables: Mapping[str, Rows]
    figures: Mapping[str, bytes]
    pages: Mapping[str, str] = field(default_factory=dict)
    attachments: tuple[str, ...] = (METRICS, CONFIG)
    terminal: Sequence[RenderableType] = ()
    warnings: Sequence[str] = ()

    def __repr__(self) -> str:
        return f"ExperimentRecord({self.name}: {len(self.metrics)} metrics, {len(self.tables)} tables)"


def run_tags(
    config: Any, data: str, backbone: str | None = None, label: str = "", **more: str
) -> dict[str, str | int]:
    """Tags to find a run by: digest and label of the backbone, digests of the data and the config, seed.

    backbone: "" where pixels take its place; None leaves both tags out, for a run about several.
    """
    named: dict[str, str | int] = {} if backbone is None else {"backbone": backbone, "backbone_label": label}
    return {**named, "manifest": data, "config": digest(config), "seed": config.seed, **more}


def pretraining_step(card: Card | None) -> int:
    """The step of the pretraining that left a backbone; 0 where that is not known."""
    return int(card.origin.get("step", 0)) if card else 0


def publish(record: ExperimentRecord, out: Path | str) -> None:
    """Write the record to `out`, which is replaced as a whole, and to MLflow; print it.

    Raises DataError where `out` holds something that is not ours, ConfigError where it is a URL.
    """
    with replaced(out) as folder:
        run = write_record(record, folder, shown_folder=Location(out).path.resolve())
    show_record(record, run.view_hint)


def write_record(
    record: ExperimentRecord,
    folder: Path,
    tracking_uri: str | None = None,
    shown_folder: Path | None = None,
) -> Run:
    """Write the files of a record into a folder and its MLflow run, a new one; the run is closed on return.

    shown_folder: what the folder will be renamed to, for messages. Raises ConfigError for a URL: the commands write to
    a folder of this machine, and upload it.
    """
    folder = Location(folder).path
    (folder / "run.json").unlink(missing_ok=True)  # else the MLflow run of an earlier call would be continued
    content = {**record.identity, "metrics": finite_or_none(record.metrics), **record.details}
    atomic_write(folder / METRICS, json.dumps(content, indent=1) + "\n")
    atomic_write(folder / CONFIG, to_json(record.config))
    for file, text in record.pages.items():
        atomic_write(folder / file, text)
    with open_run(
        folder,
        experiment=record.experiment,
        name=record.name,
        params=flat(record.config),
        tags=record.tags,
        tracking_uri=tracking_uri,
        shown_folder=shown_folder,
    ) as run:
        for data in record.datasets:
            run.log_dataset(data.name, data.digest, "evaluation", data.counts)
        for series in record.series:
            card = series.card
            model_id = run.log_evaluated_model(card.label, card.digest, series.step) if card else ""
            run.log_metrics(series.step, series.values, model_id)
        for title, rows in record.tables.items():
            run.log_table(title, rows)
        for title, png in record.figures.items():
            run.log_figure(title, png)
        for file in (*record.attachments, *record.pages):
            run.log_artifact(folder / file)
    return run


def show_record(record: ExperimentRecord, view_hint: str) -> None:
    """Print tables and lines, log warnings, and print where to look at the MLflow run."""
    show(record.terminal, record.warnings)
    print(f"MLflow: {view_hint}")


def show(items: Sequence[RenderableType], warnings: Sequence[str] = ()) -> None:
    """Print tables and lines on stdout, and log warnings."""
    console = tables_console()
    for item in items:
        console.print(item, markup=False)
    for warning in warnings:
        log.warning("%s", warning)


@contextmanager
def replaced(out: Path | str) -> Iterator[Path]:
    """A new folder beside `out`, which replaces `out` when the block ends without an exception, else is removed.

    Raises DataError before anything is written where `out` holds what no experiment left there, ConfigError for a URL.
    """
    out = Location(out).path.resolve()
    check_ours(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    ending = secrets.token_hex(4)
    new, old = (out.with_name(f".{out.name}.{ending}.{word}") for word in ("new", "old"))
    new.mkdir()
    try:
        yield new
        if out.exists():
            out.rename(old)
        new.rename(out)
    except BaseException:
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_ours(out: Path | str) -> None:
    """Raises DataError where a folder holds what no experiment left there, since it would be replaced."""
    out = Location(out).path
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; give a folder to write to")
    names = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    foreign = [name for name in names if name not in LEFT_BY_US and not name.endswith((".csv", ".html"))]
    if foreign or (names and METRICS not in names and names != [FINISHED]):
        raise DataError(
            f"{out} holds {foreign[0] if foreign else names[0]}, which no experiment left there; give another folder"
        )


def finite_or_none(values: Mapping[str, float]) -> dict[str, float | None]:
    """The values as JSON can carry them: null for NaN and infinity."""
    return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
