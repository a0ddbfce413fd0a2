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

from .revision import git_revision
from .run_folder import METRICS, RunFolder, metric_name
from .tracking import Tracker, tracking_address


class Run:
    """One recorded run, opened by `open_run`; use it as a context manager.

    Leaving the block ends the MLflow run: FINISHED, KILLED after Ctrl-C, FAILED after another exception.
    On any rank but the first every method does nothing.
    """

    def __init__(self, folder: Path, record: RunFolder | None, tracker: Tracker) -> None:
        """record: None on the ranks that do not record."""
        self.folder = folder
        self._record = record
        self._tracker = tracker

    @property
    def run_id(self) -> str:
        """Id of the MLflow run; empty without MLflow."""
        return self._tracker.run_id

    @property
    def view_hint(self) -> str:
        """Where to look at the run: MLflow's pages and the command that serves them, or the file of metrics."""
        if pages := self._tracker.pages:
            return str(pages)
        return f"no run was recorded; see {self.folder / METRICS}"

    def log_metrics(self, step: int, values: Mapping[str, float], model_id: str = "") -> None:
        """Adds one line to metrics.jsonl and the same values to MLflow, in the background.

        Names are `group/name`; the group becomes a section of charts. A step may be logged twice (after a
        resume): `history` keeps the last. model_id: the logged model that was measured.
        """
        if self._record is None or not values:
            return
        numbers = {metric_name(name): float(value) for name, value in values.items()}
        self._record.append_metrics(step, numbers)
        self._tracker.log_metrics(step, numbers, model_id)

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes `name`.csv into the folder, and a table of that name to MLflow. Rows share their keys."""
        if self._record is None or not rows:
            return
        self._record.write_table(name, rows)
        self._tracker.log_table(name, rows)

    def log_figure(self, name: str, png: bytes) -> None:
        """Writes figures/`name`.png into the folder, and gives MLflow a copy."""
        if self._record is None:
            return
        self._tracker.log_artifact(self._record.write_figure(name, png), "figures")

    def log_artifact(self, path: Path) -> None:
        """Gives MLflow a copy of a file or a folder."""
        self._tracker.log_artifact(Path(path))

    def log_dataset(self, name: str, digest: str, context: str, facts: Mapping[str, Any]) -> None:
        """The data set of the run. digest: the manifest's; context: such as `pretraining`; facts: counts."""
        self._tracker.log_dataset(name, digest, context, facts)

    def log_trained_model(
        self, name: str, digest: str, step: int, facts: Mapping[str, Any] | None = None
    ) -> str:
        """Id of MLflow's logged model for a backbone or checkpoint that this run made; "" without MLflow.

        digest: identifies the weights; logged again, the model is the same. step: of the pretraining.
        facts: more tags.
        """
        return self._tracker.log_trained_model(name, digest, step, facts or {}) or ""

    def log_evaluated_model(
        self, name: str, digest: str, step: int, facts: Mapping[str, Any] | None = None
    ) -> str:
        """Id of the logged model that this run measures: the one its pretraining logged, else a new one.

        Arguments as in `log_trained_model`. Hand the id to `log_metrics` with the same step, and runs compare
        over the steps of the pretraining.
        """
        return self._tracker.log_evaluated_model(name, digest, step, facts or {}) or ""

    def log_best(self, name: str) -> None:
        """Logs the highest value that a metric had in the folder's whole history, and its step: `best/NAME`."""
        lines = [] if self._record is None else self._record.history()
        values = [(line[name], -line["step"]) for line in lines if line.get(name) is not None]
        if values:
            value, negative_step = max(values)  # of equal values the first
            self._tracker.log_best(name.rpartition("/")[2], value, -negative_step)

    def close(self, status: str = "FINISHED") -> None:
        """Waits for what is still on its way to MLflow, then ends the MLflow run."""
        self._tracker.close(status)

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
) -> Run:
    """Opens the record of a run in `folder` and in the MLflow experiment `experiment`.

    params: dotted path -> scalar, as `config.flat` gives them. tags: at least `manifest` and `config`
    (digests) and `seed`; the git revision is added. A folder that holds a run.json continues its MLflow run
    with the params it began with; a child of that run holds the params of this start. Nothing is recorded on
    any rank but the first. Raises OSError where the folder cannot be written.
    """
    folder = Path(folder).resolve()
    tracker = Tracker(folder, tracking_address(folder, tracking_uri))
    if not _is_first_rank():
        return Run(folder, None, tracker)
    record = RunFolder(folder)
    tags = {"git_revision": git_revision(), **tags}
    record.write_params(params, tags)
    last_step = max((line["step"] for line in record.history()), default=0)
    tracker.open(experiment, name, params, tags, last_step)
    return Run(folder, record, tracker)


def _is_first_rank() -> bool:
    """Whether this process records: rank 0 of a distributed job, or no distributed job at all."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    return os.environ.get("RANK", "0") == "0"
