"""The files that a run leaves in its folder: params.json, metrics.jsonl, a CSV per table, figures/."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .files import atomic_write

METRICS = "metrics.jsonl"

log = logging.getLogger(__name__)


class RunFolder:
    """Writes the files of one run. Raises OSError where the folder cannot be made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._failed = False
        path.mkdir(parents=True, exist_ok=True)
        _end_last_line(path / METRICS)

    def write_params(self, params: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
        """Writes params.json: the settings and the tags of this start of the run."""
        content = {"params": dict(params), "tags": dict(tags)}
        atomic_write(self.path / "params.json", json.dumps(content, indent=2, default=str))

    def append_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a line to metrics.jsonl, null for a non-finite value. A failure is one warning: training goes on."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = json.dumps({"step": step, "time": round(time.time(), 3), **finite}) + "\n"
        try:
            with (self.path / METRICS).open("a") as file:
                file.write(line)
        except OSError as error:
            if not self._failed:
                log.warning("%s cannot be written (%s); the run goes on", self.path / METRICS, error.strerror)
            self._failed = True

    def write_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes `name`.csv; all rows have the keys of the first."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        atomic_write(self.path / f"{name}.csv", text.getvalue())

    def write_figure(self, name: str, png: bytes) -> Path:
        """Writes figures/`name`.png and returns its path."""
        path = self.path / "figures" / f"{name.removesuffix('.png')}.png"
        atomic_write(path, png)
        return path

    def history(self) -> list[dict[str, Any]]:
        """As the function `history`, but empty where nothing was measured yet."""
        return history(self.path) if (self.path / METRICS).is_file() else []


def history(folder: Path | str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl in order of their step; of a step written twice (after a resume) the last values.

    A last line that a kill cut off is left out. Raises FileNotFoundError where there is no metrics.jsonl.
    """
    steps: dict[int, dict[str, Any]] = {}
    for text in (Path(folder) / METRICS).read_text().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        steps.setdefault(line["step"], {}).update(line)
    return [steps[step] for step in sorted(steps)]


def metric_name(name: str) -> str:
    """A name that MLflow takes: letters, digits and `_-. :/`.

    >>> metric_name("probe/recall@10"), metric_name("knn/AP (mass)")
    ('probe/recall_at_10', 'knn/AP _mass_')
    """
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"))


def _end_last_line(path: Path) -> None:
    """Ends a last line that a kill cut off, so that the next one starts afresh."""
    if path.is_file() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.write(b"\n")
