"""One recorded run: files in its folder, and the same in MLflow.

The files are the record; MLflow shows them. Where MLflow is missing or fails, one line says so and the work
goes on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .mirror import place_of
from .revision import git_revision
from .run_folder import METRICS, RunFolder, metric_name
from .tracking import MlflowRun, best_effort, tracking_address


class Run(MlflowRun):
    """One recorded run, opened by `open_run`; use it as a context manager.

    Leaving the block ends the MLflow run: FINISHED, KILLED after Ctrl-C, FAILED after another exception.
    On any rank but the first every method does nothing.
    """

    def __init__(
        self, folder: Path, uri: str, record: RunFolder | None, shown_folder: Path | None = None
    ) -> None:
        """record: None on the ranks that do not record."""
        super().__init__(folder, uri, shown_folder)
        self._record = record

    @property
    def view_hint(self) -> str:
        """Where to look at the run: MLflow's pages and the command that serves them, or what there is in files."""
        measured = any((folder / METRICS).is_file() for folder in (self.folder, self.shown_folder))
        place = self.shown_folder / METRICS if measured else self.shown_folder
        return self.pages or f"no run was recorded; see {place_of(place)}"

    def log_metrics(self, step: int, values: Mapping[str, float], model_id: str | None = None) -> None:
        """Adds one line to metrics.jsonl and the same values to MLflow, in the background.

        Names are `group/name`; the group becomes a section of charts. A step may be logged twice (after a
        resume): `history` keeps the last. model_id: the logged model that was measured.
        """
        if self._record is None or not values:
            return
        numbers = {metric_name(name): float(value) for name, value in values.items()}
        self._record.append_metrics(step, numbers)
        super().log_metrics(step, numbers, model_id)

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes `name`.csv into the folder, and a table of that name to MLflow. Rows share their keys."""
        if self._record is None or not rows:
            return
        self._record.write_table(name, rows)
        super().log_table(name, rows)

    def log_figure(self, name: str, png: bytes) -> None:
        """Writes figures/`name`.png into the folder, and gives MLflow a copy."""
        if self._record is not None:
            self.log_artifact(self._record.write_figure(name, png), "figures")

    @best_effort
    def log_best(self, name: str) -> None:
        """Tells MLflow the highest value of a metric in the folder's whole history, and its step: `best/NAME`."""
        lines = [] if self._record is None else self._record.history()
        values = [(line[name], -line["step"]) for line in lines if line.get(name) is not None]
        if values:
            value, negative_step = max(values)  # of equal values the first
            short = name.rpartition("/")[2]
            self.client.log_metric(self.run_id, f"best/{short}", value, step=-negative_step)
            self.client.set_tag(self.run_id, f"best.{short}.step", str(-negative_step))

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        stopped = "KILLED" if kind is not None and issubclass(kind, KeyboardInterrupt) else "FAILED"
        self.close("FINISHED" if kind is None else stopped)

    def __repr__(self) -> str:
        return f"Run({self.folder.name})"


def open_run(
    folder: Path | str,
    *,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, Any],
    tracking_uri: str | None = None,
    shown_folder: Path | None = None,
    resumed_after: int | None = None,
) -> Run:
    """Opens the record of a run in `folder` and in the MLflow experiment `experiment`.

    params: dotted path -> scalar, as `config.flat` gives them. tags: at least `manifest` and `config`
    (digests) and `seed`; the git revision is added. shown_folder: what the folder will be renamed to, for messages.
    A folder that holds a run.json continues its MLflow run with the params it began with; a child of that run holds
    the params of this start, and the step after which it continues: resumed_after, or None for the last one recorded
    (of which a killed training may have computed more than its checkpoint has). Nothing is recorded on any rank but
    the first. Raises OSError where the folder cannot be written.
    """
    folder = Path(folder).resolve()
    uri = tracking_address(folder, tracking_uri)
    if not _is_first_rank():
        return Run(folder, uri, None, shown_folder)
    record = RunFolder(folder)
    tags = {"git_revision": git_revision(), **tags}
    record.write_params(params, tags)
    if resumed_after is None:
        resumed_after = max((line["step"] for line in record.history()), default=0)
    run = Run(folder, uri, record, shown_folder)
    run.open(experiment, name, params, tags, resumed_after)
    return run


def _is_first_rank() -> bool:
    """Whether this process records: rank 0 of a distributed job, or no distributed job at all."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    return os.environ.get("RANK", "0") == "0"
