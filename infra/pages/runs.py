"""What the folder of a run tells, read back: settings, curves, figures, answers.

Pretrainings and evaluations leave the same files (`params.json`, `metrics.jsonl`, a CSV of figures per task).
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
from ...platform.measure.metrics import Figure
from ...platform.measure.predictions import Kept, answers_file, load_answers

PLACES = ("out", "resume", "seed", "threads", "loaders", "log_every", "checkpoint_every", "keep", "restarts")
"""Settings in which two trainings of one recipe differ though they are the same experiment: of the place, the seed, and
how the work was done."""


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One run as its folder tells it.

    name: short, unique among those read together. params: dotted path -> scalar. tags: digests, seed, revision.
    curves: metric -> step -> value. figures: task -> its table. backbones: source -> digest of its backbone.
    """

    folder: Path
    name: str
    params: Mapping[str, Any]
    tags: Mapping[str, Any]
    curves: Mapping[str, Mapping[int, float]]
    figures: Mapping[str, Sequence[Figure]]
    left_out: Mapping[str, Mapping[str, str]]
    facts: Mapping[str, Mapping[str, Mapping[str, Any]]]
    backbones: Mapping[str, str]

    @property
    def trains(self) -> bool:
        """Whether it is a training, which has curves; else it is an evaluation."""
        return not self.figures

    @property
    def manifest(self) -> str:
        """Digest of the shards that it saw."""
        return str(self.tags.get("manifest", ""))

    @property
    def family(self) -> str:
        """Equal for runs that differ in their seed alone."""
        told = {key: value for key, value in self.params.items() if key not in PLACES}
        told["shards"] = self.manifest
        return json.dumps(told, sort_keys=True, default=str)

    def answers(self, task: str, source: str) -> Kept | None:
        """Per-item answers where the evaluation kept them. Raises DataError where they are damaged."""
        path = answers_file(self.folder, task, source)
        return load_answers(path) if path.is_file() else None

    def __repr__(self) -> str:
        return f"Record({self.name}, {'training' if self.trains else 'evaluation'})"


def records_of(folders: Sequence[Path]) -> list[Record]:
    """The runs in these folders, under names that tell them apart.

    Raises ConfigError for a folder that holds no run, or is given twice, DataError for damaged files.
    """
    folders = [Path(folder).resolve() for folder in folders]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ConfigError(f"{folder}: given twice; a run cannot be compared with itself")
    records = [record_of(folder) for folder in folders]
    return [replace(record, name=name) for record, name in zip(records, names_of(folders), strict=True)]


def names_of(folders: Sequence[Path]) -> list[str]:
    """As many last parts of each path as tell all of them apart.

    >>> names_of([Path("a/multi/run"), Path("a/single/run")])
    ['multi/run', 'single/run']
    """
    for parts in range(1, max((len(folder.parts) for folder in folders), default=0) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def record_of(folder: Path) -> Record:
    """One run. Raises as `records_of`."""
    if not (folder / "params.json").is_file():
        raise ConfigError(
            f"{folder}: no run here (no params.json); give a folder that `vetdino pretrain` or "
            "`vetdino evaluate` left"
        )
    told = json_of(folder / "params.json")
    whole = json_of(folder / "metrics.json") if (folder / "metrics.json").is_file() else {}
    figures = {path.stem: table for path in sorted(folder.glob("*.csv")) if (table := figures_of(path))}
    curves = _curves(folder)
    if not figures and not curves:
        raise ConfigError(f"{folder}: this run has recorded nothing yet; wait for its first metrics")
    try:
        return Record(
            folder=folder,
            name=folder.name,
            params=dict(told["params"]),
            tags=dict(told["tags"]),
            curves=curves,
            figures=figures,
            left_out=whole.get("left_out", {}),
            facts=whole.get("facts", {}),
            backbones=_backbones(told["tags"], whole),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(f"{folder}/params.json: damaged; {_AGAIN}") from None


_AGAIN = "run the command that wrote it again"


def json_of(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises DataError where it is none."""
    try:
        told = json.loads(path.read_text())
    except (OSError, ValueError):
        raise DataError(f"{path}: damaged, no JSON; {_AGAIN}") from None
    if not isinstance(told, dict):
        raise DataError(f"{path}: damaged, no JSON object; {_AGAIN}")
    return told


def figures_of(path: Path) -> tuple[Figure, ...]:
    """The figures in a CSV; empty where the table holds something else. Raises DataError for a damaged row."""
    names = [field.name for field in fields(Figure)]
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if not set(names) <= set(reader.fieldnames or ()):
            return ()
        try:
            return tuple(_figure(row) for row in reader)
        except (TypeError, ValueError):
            raise DataError(f"{path}: damaged at line {reader.line_num}; {_AGAIN}") from None


def _figure(row: Mapping[str, str]) -> Figure:
    numbers = {name: float(row[name]) for name in ("value", "low", "high")}
    counts = {name: int(row[name]) for name in ("present", "known")}
    return Figure(row["metric"], row["finding"], row["source"], **numbers, **counts)


def _curves(folder: Path) -> dict[str, dict[int, float]]:
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return {}
    try:
        lines = history(folder)
    except (OSError, KeyError, TypeError, AttributeError, ValueError):
        raise DataError(f"{path}: damaged; {_AGAIN}") from None
    if not lines and path.stat().st_size:
        raise DataError(f"{path}: damaged, no line of it is JSON; {_AGAIN}")
    curves: dict[str, dict[int, float]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in ("step", "time") and isinstance(value, int | float):
                curves.setdefault(name, {})[int(line["step"])] = float(value)
    return curves


def _backbones(tags: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, str]:
    """Digest of each source: an evaluation of one backbone tells it in its tags, of several in metrics.json."""
    told = {name: str(source["digest"]) for name, source in whole.get("sources", {}).items()}
    return told or ({"backbone": str(tags["backbone"])} if tags.get("backbone") else {})


def common_name(names: Sequence[str]) -> str:
    """What several runs are called together.

    >>> common_name(["multi-0", "multi-1"]), common_name(["a"]), common_name(["a", "b"])
    ('multi (2 seeds)', 'a', 'a and 1 more (2 seeds)')
    """
    if len(names) == 1:
        return names[0]
    stems = {re.sub(r"[\W_]*(seed|s)?[\W_]*\d+$", "", name) for name in names}
    shared = stems.pop() if len(stems) == 1 else ""
    return f"{shared or f'{names[0]} and {len(names) - 1} more'} ({len(names)} seeds)"
