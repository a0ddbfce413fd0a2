"""Summary of an audit: per row and organ the Dice, its change, and the fractions of slices that got worse or better."""

# N scans, O organs.

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..method.protocol import bootstrap_intervals
from ..summary import MEAN
from .config import AuditConfig
from .scores import SliceScore


def audit_summary(
    scores: Sequence[SliceScore], before: Mapping[str, str], organs: Sequence[str], config: AuditConfig
) -> list[dict[str, Any]]:
    """A line for each row and organ, and for the mean over organs; lines of summary.csv.

    before: row -> the row it is compared with. dice: over the pooled slices of an organ in a scan, mean over scans.
    change: paired with the row before. worse, better: fraction of a scan's slices whose own Dice fell or rose, mean
    over scans. All with 95 % intervals, bootstrap over scans.
    """
    scans = list(dict.fromkeys(score.scan for score in scores))
    tables = {row: _RowSums(scans, organs) for row in before}
    slice_dice = {(score.row, score.scan, score.organ, score.slice): score.dice for score in scores}
    for score in scores:
        earlier = slice_dice[before[score.row], score.scan, score.organ, score.slice]
        tables[score.row].add(score, score.dice - earlier)
    lines = []
    for row, table in tables.items():
        dice_NO = table.dice()
        measures = {
            "dice": dice_NO,
            "change": dice_NO - tables[before[row]].dice(),
            "worse": table.fraction("worse"),
            "better": table.fraction("better"),
        }
        intervals = {
            name: bootstrap_intervals(values_NO, config.resamples, config.seed)
            for name, values_NO in measures.items()
        }
        for place, organ in enumerate((*organs, MEAN)):
            line: dict[str, Any] = {"row": row, "before": before[row], "organ": organ}
            line |= table.counts(None if organ == MEAN else place)
            for name, (mean_O, (low_O, high_O)) in intervals.items():
                line |= {
                    name: float(mean_O[place]),
                    f"{name}_low": float(low_O[place]),
                    f"{name}_high": float(high_O[place]),
                }
            lines.append(line)
    return lines


class _RowSums:
    """Sums (N, O) over the slices of one row."""

    def __init__(self, scans: Sequence[str], organs: Sequence[str]) -> None:
        self._scans, self._organs = list(scans), list(organs)
        self._sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros((len(scans), len(organs))))

    def add(self, score: SliceScore, change: float) -> None:
        place = self._scans.index(score.scan), self._organs.index(score.organ)
        for name, value in {
            "slices": 1,
            "overlap": score.overlap,
            "pixels": score.found + score.true,
            "worse": change < 0,
            "better": change > 0,
            "parts": score.parts,
            "several": score.parts > 1,
        }.items():
            self._sums[name][place] += value

    def dice(self) -> np.ndarray:
        """(N, O) 0..1, NaN where a scan does not show an organ."""
        return _ratio(2 * self._sums["overlap"], self._sums["pixels"])

    def fraction(self, name: str) -> np.ndarray:
        """(N, O) fraction of slices that are `name`; NaN where there are none."""
        return _ratio(self._sums[name], self._sums["slices"])

    def counts(self, organ: int | None) -> dict[str, float]:
        """Numbers of scans and slices, mean components per slice, fraction with several; of all organs for None."""
        chosen = slice(None) if organ is None else [organ]
        slices_NO = self._sums["slices"][:, chosen]
        total = slices_NO.sum()
        return {
            "scans": int(slices_NO.any(axis=1).sum()),
            "slices": int(total),
            "parts": float(self._sums["parts"][:, chosen].sum() / max(total, 1)),
            "several": float(self._sums["several"][:, chosen].sum() / max(total, 1)),
        }


def _ratio(part_NO: np.ndarray, whole_NO: np.ndarray) -> np.ndarray:
    return np.divide(part_NO, whole_NO, out=np.full(whole_NO.shape, np.nan), where=whole_NO > 0)
