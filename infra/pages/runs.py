"""A run read back from its folder: settings, curves, metric values, predictions.

Pretrainings and evaluations write the same files: `params.json`, `metrics.jsonl`, and one CSV of metric values per
task.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ...platform.core.errors import ConfigError, DataError
from ...platform.core.run_folder import history
from ...platform.measure.predictions import SavedPredictions, load_predictions, predictions_file
from ...platform.measure.results import MetricValue

REPEAT_SETTINGS = (
    *("out", "resume", "seed", "threads", "loaders"),
    *("log_every", "checkpoint_every", "keep", "restarts"),
)
"""Settings that may differ between repeats of one experiment: place, seed, and how the work was done."""

RERUN = "run the command that wrote it again"


@dataclass(frozen=True, slots=True, eq=False)
class RunRecord:
    """One training or evaluation.

    name: short, unique among runs read together. params: dotted path -> scalar. tags: digests, seed, revision.
    curves: metric -> step -> value. values: task -> its metric values. left_out: task -> finding -> reason.
    backbones: source -> digest of its backbone.
    """

    folder: Path
    name: str
    params: Mapping[str, Any]
    tags: Mapping[str, Any]
    curves: Mapping[str, Mapping[int, float]]
    values: Mapping[str, Sequence[MetricValue]]
    left_out: Mapping[str, Mapping[str, str]]
    backbones: Mapping[str, str]

    @property
    def is_training(self) -> bool:
        """Whether it is a training, which has curves; otherwise it is an evaluation."""
        return not self.values

    @property
    def manifest(self) -> str:
        """Digest of its shards."""
        return str(self.tags.get("manifest", ""))

    @property
    def repeat_key(self) -> str:
        """Equal for runs that are repeats of one experiment with different seeds."""
        params = {key: value for key, value in self.params.items() if key not in REPEAT_SETTINGS}
        return json.dumps(params | {"shards": self.manifest}, sort_keys=True, default=str)

    def predictions(self, task: str, source: str) -> SavedPredictions | None:
        """Predictions per study, None if the evaluation kept none. Raises DataError if they are damaged."""
        path = predictions_file(self.folder, task, source)
        return load_predictions(path) if path.is_file() else None

    def __repr__(self) -> str:
        return f"RunRecord({self.name}, {'training' if self.is_training else 'evaluation'})"


def read_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """The runs in these folders, under distinct names.

    Raises ConfigError for a folder that holds no run or is given twice, DataError for damaged files.
    """
    folders = [Path(folder).resolve() for folder in folders]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ConfigError(f"{folder}: given twice; a run cannot be compared with itself")
    runs = [read_run(folder) for folder in folders]
    return [replace(run, name=name) for run, name in zip(runs, distinct_names(folders), strict=True)]


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as make all names distinct.

    >>> distinct_names([Path("a/multi/run"), Path("a/single/run")])
    ['multi/run', 'single/run']
    """
    for parts in range(1, max((len(folder.parts) for folder in folders), default=0) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def read_run(folder: Path) -> RunRecord:
    """One run. Raises as `read_runs`."""
    if not (folder / "params.json").is_file():
        raise ConfigError(
            f"{folder}: no run here (no params.json); give a folder that `vetdino pretrain` or "
            "`vetdino evaluate` wrote"
        )
    start = read_json(folder / "params.json")
    metrics = read_json(folder / "metrics.json") if (folder / "metrics.json").is_file() else {}
    values = {path.stem: table for path in sorted(folder.glob("*.csv")) if (table := read_values(path))}
    curves = _read_curves(folder)
    if not values and not curves:
        raise ConfigError(f"{folder}: this run has recorded nothing yet; wait for its first metrics")
    try:
        return RunRecord(
            folder=folder,
            name=folder.name,
            params=dict(start["params"]),
            tags=dict(start["tags"]),
            curves=curves,
            values=values,
            left_out=metrics.get("left_out", {}),
            backbones=_backbone_digests(start["tags"], metrics),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(f"{folder}/params.json: damaged; {RERUN}") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises DataError if there is none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        raise DataError(f"{path}: damaged, not JSON; {RERUN}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: damaged, not a JSON object; {RERUN}")
    return content


def read_values(path: Path) -> tuple[MetricValue, ...]:
    """The metric values in a CSV; empty for another kind of table. Raises DataError for a damaged row."""
    columns = {field.name for field in fields(MetricValue)}
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if not columns <= set(reader.fieldnames or ()):
            return ()
        try:
            return tuple(_metric_value(row) for row in reader)
        except (TypeError, ValueError):
            raise DataError(f"{path}: damaged at line {reader.line_num}; {RERUN}") from None


def _metric_value(row: Mapping[str, str]) -> MetricValue:
    return MetricValue(
        row["metric"],
        row["finding"],
        row["source"],
        value=float(row["value"]),
        low=float(row["low"]),
        high=float(row["high"]),
        present=int(row["present"]),
        known=int(row["known"]),
    )


def _read_curves(folder: Path) -> dict[str, dict[int, float]]:
    """Metric -> step -> value, from metrics.jsonl."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return {}
    try:
        lines = history(folder)
    except (OSError, KeyError, TypeError, AttributeError, ValueError):
        raise DataError(f"{path}: damaged; {RERUN}") from None
    if not lines and path.stat().st_size:
        raise DataError(f"{path}: damaged, no line of it is JSON; {RERUN}")
    curves: dict[str, dict[int, float]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in ("step", "time") and isinstance(value, int | float):
                curves.setdefault(name, {})[int(line["step"])] = float(value)
    return curves


def _backbone_digests(tags: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, str]:
    """Source -> digest: in the tags for an evaluation of one backbone, in metrics.json for one of several."""
    digests = {name: str(source["digest"]) for name, source in metrics.get("sources", {}).items()}
    return digests or ({"backbone": str(tags["backbone"])} if tags.get("backbone") else {})


def common_name(names: Sequence[str]) -> str:
    """One name for several repeats.

    >>> common_name(["multi-0", "multi-1"]), common_name(["a"]), common_name(["a", "b"])
    ('multi (2 seeds)', 'a', 'a and 1 more (2 seeds)')
    """
    if len(names) == 1:
        return names[0]
    stems = {re.sub(r"[\W_]*(seed|s)?[\W_]*\d+$", "", name) for name in names}
    stem = stems.pop() if len(stems) == 1 else ""
    return f"{stem or f'{names[0]} and {len(names) - 1} more'} ({len(names)} seeds)"
