"""Queries that a few-shot measurement has finished, kept on disk until it is recorded, so that it can be continued.

    OUT/finished_queries/KEY/FOLD-SCAN.npz   all that one query leaves; KEY: digest of all that the results depend on
    OUT/finished_queries/KEY/scans.csv       the scores so far, to look at meanwhile

The record replaces OUT as a whole, and `finished_queries` goes with it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...platform.core.files import atomic_path, atomic_write
from ..common.record import FINISHED
from .results import ExampleSlices, ScanScore


@dataclass(frozen=True, slots=True, eq=False)
class QueryResults:
    """What one query leaves.

    seconds: by source. left_out: what was left out for the first time. reports: by number of the method, its lines on
    test-time training.
    """

    scores: tuple[ScanScore, ...]
    example: ExampleSlices
    seconds: Mapping[str, float]
    left_out: Mapping[str, str]
    reports: Mapping[int, Sequence[Mapping[str, Any]]]

    def __repr__(self) -> str:
        return f"QueryResults({self.example.scan}, {len(self.scores)} scores)"


class FinishedQueries:
    """Finished queries of one measurement in a folder of their own.

    out: folder of the record. identity: JSON of all that the results depend on; queries of another one are not read.
    """

    def __init__(self, out: Path | str, identity: Mapping[str, Any]) -> None:
        text = json.dumps(identity, sort_keys=True)
        self.folder = Path(out) / FINISHED / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._scores: list[ScanScore] = []

    def load(self, fold: int, scan: str) -> QueryResults | None:
        """A finished query; None where it is not there or damaged."""
        try:
            with self._path(fold, scan).open("rb") as stream, np.load(stream) as file:
                card = json.loads(str(file["card"]))
                example = ExampleSlices(
                    scan, tuple(card["slices"]), *(file[name] for name in ("image", "predicted", "truth"))
                )
            results = QueryResults(
                tuple(ScanScore(**score) for score in card["scores"]),
                example,
                card["seconds"],
                card["left_out"],
                {int(number): lines for number, lines in card["reports"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None
        self._scores += results.scores
        return results

    def save(self, fold: int, results: QueryResults) -> None:
        """Keeps a query that is finished, and the table of all scores so far."""
        example = results.example
        card = {
            "scores": [asdict(score) for score in results.scores],
            "slices": example.slices,
            "seconds": dict(results.seconds),
            "left_out": dict(results.left_out),
            "reports": {str(number): list(lines) for number, lines in results.reports.items()},
        }
        with atomic_path(self._path(fold, example.scan)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                card=json.dumps(card),
                image=example.image_nHW,
                predicted=example.predicted_nHW,
                truth=example.truth_nHW,
            )
        self._scores += results.scores
        self._write_scores()

    def _write_scores(self) -> None:
        text = io.StringIO()
        if self._scores:
            table = csv.DictWriter(text, list(asdict(self._scores[0])), lineterminator="\n")
            table.writeheader()
            table.writerows(map(asdict, self._scores))
        atomic_write(self.folder / "scans.csv", text.getvalue())

    def _path(self, fold: int, scan: str) -> Path:
        return self.folder / f"{fold}-{scan}.npz"

    def __repr__(self) -> str:
        return f"FinishedQueries({self.folder})"
