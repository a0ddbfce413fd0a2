"""Scores of few-shot segmentation as lines of a table: means, intervals over scans, paired differences."""

# N scans, O organs.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .config import FewshotConfig
from .method.protocol import bootstrap_intervals
from .results import FewshotResults, ScanScore

MEAN = "mean"
"""In place of an organ: the mean of the organs' means."""

MIN_SCANS = 5
"""Fewer scans have no interval: a bootstrap over them says more about these scans than about others."""

MIN_PAIRS = 6
"""With fewer scans no two-sided signed-rank test reaches 0.05, and none is made."""

MEASURES = ("dice", "volume_dice", "volume_hd95")

NOTES = (
    "dice: published protocol, mean over scans of 2TP/(2TP+FP+FN) over an organ's slices; the query's own ground truth "
    "says to which third of the organ a slice belongs. volume_dice: whole scans, no ground truth used. volume_hd95: "
    "mm, of scans of known spacing where both masks are not empty; missed: scans whose predicted mask is empty. "
    "Intervals: 95 %, bootstrap over scans, none "
    f"under {MIN_SCANS} scans; scans of one fold share their support, so that the true ones are wider. delta: dice of "
    "this row less that of the row `against`, over the scans that both have; p: Wilcoxon's signed-rank test of these "
    f"differences, two-sided, of scans' means in the mean's line, none under {MIN_PAIRS} scans, not corrected for "
    "the number of rows."
)


def summary_lines(
    results: FewshotResults, config: FewshotConfig, against: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """A line for each row and organ, and for the organs' mean; see NOTES.

    against: row -> the row that it is compared with; the first row by default.
    """
    organs = list(results.organs.values())
    scores_by_row = {row: row_scores(results.scores, row, organs) for row in results.methods}
    scores_by_row = {row: scores for row, scores in scores_by_row.items() if scores.scans}
    first = next(iter(scores_by_row))
    lines = []
    for row, scores in scores_by_row.items():
        method, reference = results.methods[row], (against or {}).get(row, first)
        head = {
            "row": row,
            "source": method.source,
            "compat": method.compat,
            "shots": method.shots,
            "floor": method.baseline,
        }
        delta_NO = _difference(scores, scores_by_row.get(reference, scores))
        spreads = {name: _spread(values_NO, config) for name, values_NO in scores.measures.items()}
        spreads["delta"] = _spread(delta_NO, config)
        p_O = [paired_p(column_N) for column_N in (*delta_NO.T, _scan_means(delta_NO))]
        scans_O, missed_O = _counts(scores)
        for place, organ in enumerate((*organs, MEAN)):
            line = {**head, "organ": organ, "scans": scans_O[place], "missed": missed_O[place]}
            for name, spread in spreads.items():
                columns = (name, f"{name}_low", f"{name}_high")
                line |= dict(zip(columns, spread[:, place].tolist(), strict=True))
            note = few_scans_note(scans_O[place])
            lines.append(line | {"against": reference, "p": p_O[place], "note": note})
    return lines


@dataclass(frozen=True, slots=True, eq=False)
class RowScores:
    """All scores of one row. measures: name -> (N, O), NaN for an organ that a scan does not show.

    missed_O: scans by organ whose predicted mask is empty.
    """

    scans: tuple[str, ...]
    measures: Mapping[str, np.ndarray]
    missed_O: np.ndarray

    def __repr__(self) -> str:
        return f"RowScores({len(self.scans)} scans)"


def row_scores(scores: Sequence[ScanScore], row: str, organs: Sequence[str]) -> RowScores:
    """The scores of one row as arrays; scans in the order in which they come."""
    its_scores = [score for score in scores if score.row == row]
    scans = list(dict.fromkeys(score.scan for score in its_scores))
    measures = {name: np.full((len(scans), len(organs)), np.nan) for name in MEASURES}
    for score in its_scores:
        for name in MEASURES:
            measures[name][scans.index(score.scan), organs.index(score.organ)] = getattr(score, name)
    missed = [sum(score.missed for score in its_scores if score.organ == organ) for organ in organs]
    return RowScores(tuple(scans), measures, np.array(missed, int))


def few_scans_note(scans: int) -> str:
    """Note beside a figure of few scans; empty if there are enough, or none.

    >>> few_scans_note(3), few_scans_note(20)
    ('3 scans: too few for an interval', '')
    """
    return f"{scans} scan{'s' * (scans > 1)}: too few for an interval" if 0 < scans < MIN_SCANS else ""


def paired_p(delta_N: np.ndarray) -> float:
    """p of Wilcoxon's two-sided signed-rank test of paired differences; NaN among them is left out.

    NaN under `MIN_PAIRS` scans, 1 if no scan differs.
    """
    from scipy.stats import wilcoxon

    known_N = delta_N[~np.isnan(delta_N)]
    if len(known_N) < MIN_PAIRS:
        return float("nan")
    differing_N = known_N[known_N != 0]
    return float(wilcoxon(differing_N).pvalue) if len(differing_N) else 1.0


def _difference(scores: RowScores, reference: RowScores) -> np.ndarray:
    """(N, O) differences of Dice over the scans that both rows have."""
    pairs = [
        (n, reference.scans.index(scan)) for n, scan in enumerate(scores.scans) if scan in reference.scans
    ]
    here, there = np.array(pairs, int).reshape(-1, 2).T
    return scores.measures["dice"][here] - reference.measures["dice"][there]


def _counts(scores: RowScores) -> tuple[list[int], list[int]]:
    """Scans that show each organ, and those of them whose predicted mask is empty; last: over all organs."""
    known_O = (~np.isnan(scores.measures["dice"])).sum(axis=0)
    return [*known_O.tolist(), len(scores.scans)], [*scores.missed_O.tolist(), int(scores.missed_O.sum())]


def _scan_means(values_NO: np.ndarray) -> np.ndarray:
    """(N,) mean over the organs that a scan has, NaN where it has none."""
    known_N = (~np.isnan(values_NO)).sum(axis=1)
    return np.divide(
        np.nansum(values_NO, axis=1), known_N, out=np.full(len(values_NO), np.nan), where=known_N > 0
    )


def _spread(values_NO: np.ndarray, config: FewshotConfig) -> np.ndarray:
    """(3, O + 1): mean and both ends of the interval, of each organ and of the organs' means' mean."""
    if not len(values_NO):
        return np.full((3, values_NO.shape[1] + 1), np.nan)
    mean_O, ends = bootstrap_intervals(values_NO, config.resamples, config.seed)
    few_O = np.append((~np.isnan(values_NO)).sum(axis=0) < MIN_SCANS, False)
    return np.stack([mean_O, *(np.where(few_O, np.nan, end_O) for end_O in ends)])
