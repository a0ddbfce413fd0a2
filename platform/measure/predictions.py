"""Predictions of an evaluation, and the file that keeps them for paired comparisons with later evaluations.

A row is an item of the test split under its patient's pseudonym, with truth and score of each finding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..core.errors import DataError
from ..core.files import atomic_path

VERSION = 1
"""Of the file."""

TRUTH, SCORE = "truth:", "score:"


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Scores of the items of a split for each finding, beside the truth.

    findings: (F,), those that can be measured. patients: (N,). truth, scores: (N, F) as in `metrics.auroc`.
    left_out: finding -> why it is not measured. facts: how the scores came about, such as the k chosen.
    """

    findings: tuple[str, ...]
    patients: Sequence[str]
    truth: np.ndarray
    scores: np.ndarray
    left_out: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str | int | float] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Predictions({len(self.patients)} items, {len(self.findings)} findings)"


@dataclass(frozen=True, slots=True, eq=False)
class SavedPredictions:
    """Content of a file. manifest: digest of the shards; source: digest of the features or the network."""

    predictions: Predictions
    manifest: str
    source: str


def predictions_file(folder: Path | str, task: str, source: str) -> Path:
    """Where an evaluation in `folder` keeps the predictions of a source for a task."""
    return Path(folder) / "answers" / f"{task}-{source}.parquet"


def save_predictions(path: Path, predictions: Predictions, manifest: str, source: str) -> None:
    """Writes them as Parquet, whole or not at all; left-out findings and facts stay in metrics.json."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = {"patient": pa.array(predictions.patients, pa.string())}
    for finding, truth_N, score_N in zip(
        predictions.findings, predictions.truth.T, predictions.scores.T, strict=True
    ):
        columns[TRUTH + finding] = pa.array(np.asarray(truth_N, np.float32))
        columns[SCORE + finding] = pa.array(np.asarray(score_N, np.float64))
    card = {"version": VERSION, "manifest": manifest, "source": source, "findings": predictions.findings}
    with atomic_path(path) as temporary:
        table = pa.table(columns).replace_schema_metadata({"vetdino": json.dumps(card)})
        parquet.write_table(table, temporary, write_page_checksum=True)


def load_predictions(path: Path) -> SavedPredictions:
    """What `save_predictions` wrote. Raises DataError where the file is damaged or of another version."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, page_checksum_verification=True)
        card = json.loads((table.schema.metadata or {})[b"vetdino"])
        if card["version"] != VERSION:
            raise DataError(
                f"{path}: version {card['version']}, this vetdino reads {VERSION}; evaluate again"
            )
        truth, scores = (
            [table[prefix + finding].to_numpy() for finding in card["findings"]] for prefix in (TRUTH, SCORE)
        )
        predictions = Predictions(
            findings=tuple(card["findings"]),
            patients=tuple(table["patient"].to_pylist()),
            truth=np.stack(truth, axis=1).astype(np.float64),
            scores=np.stack(scores, axis=1),
        )
        return SavedPredictions(predictions, card["manifest"], card["source"])
    except (pa.ArrowException, OSError, KeyError, ValueError, AttributeError):
        raise DataError(f"{path}: damaged or no table of predictions; run `vetdino evaluate` again") from None
