"""Answers kept beside an evaluation, so that others can be held against them later, patient by patient.

A row is an item of the test split under its patient's pseudonym, with truth and score of each finding.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.config import atomic_path
from ..core.errors import DataError
from .metrics import Answers

VERSION = 1
"""Of the table."""

TRUTH, SCORE = "truth:", "score:"


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """Answers as a file tells them. manifest: digest of the shards; source: digest of what answered."""

    answers: Answers
    manifest: str
    source: str


def answers_file(folder: Path | str, task: str, source: str) -> Path:
    """Where an evaluation in `folder` keeps the answers of a source to a task."""
    return Path(folder) / "answers" / f"{task}-{source}.parquet"


def save_answers(path: Path, answers: Answers, manifest: str, source: str) -> None:
    """Writes the answers as Parquet, whole or not at all; left-out findings and facts stay in metrics.json."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = {"patient": pa.array(answers.patients, pa.string())}
    for finding, truth_N, score_N in zip(answers.findings, answers.truth.T, answers.scores.T, strict=True):
        columns[TRUTH + finding] = pa.array(np.asarray(truth_N, np.float32))
        columns[SCORE + finding] = pa.array(np.asarray(score_N, np.float64))
    card = {"version": VERSION, "manifest": manifest, "source": source, "findings": answers.findings}
    with atomic_path(path) as temporary:
        parquet.write_table(
            pa.table(columns).replace_schema_metadata({"vetdino": json.dumps(card)}), temporary
        )


def load_answers(path: Path) -> Kept:
    """What `save_answers` wrote. Raises DataError where the file is damaged or of another version."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        card = json.loads((table.schema.metadata or {})[b"vetdino"])
        if card["version"] != VERSION:
            raise DataError(
                f"{path}: version {card['version']}, this vetdino reads {VERSION}; evaluate again"
            )
        truth, scores = (
            [table[prefix + finding].to_numpy() for finding in card["findings"]] for prefix in (TRUTH, SCORE)
        )
        answers = Answers(
            findings=tuple(card["findings"]),
            patients=tuple(table["patient"].to_pylist()),
            truth=np.stack(truth, axis=1).astype(np.float64),
            scores=np.stack(scores, axis=1),
        )
        return Kept(answers, card["manifest"], card["source"])
    except (pa.ArrowException, OSError, KeyError, ValueError, AttributeError):
        raise DataError(f"{path}: damaged or no table of answers; run `vetdino evaluate` again") from None
