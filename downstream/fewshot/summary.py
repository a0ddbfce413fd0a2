"""Scores of few-shot segmentation as lines of a table: means, intervals over scans, paired differences."""

# N scans, O organs.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .config import FewshotConfig
from .measure import Evaluated, Score
from .method.protocol import intervals

MEAN = "mean"
"""In place of an organ: the mean of the organs' means."""

FEWEST = 5
"""Under so many scans there is no interval: a bootstrap over fewer says more about them than about others."""

LEAST_PAIRS = 6
"""Under so many scans no two-sided signed-rank test reaches 0.05, and none is made."""

MEASURES = ("dice", "volume_dice", "volume_hd95")

NOTES = (
    "dice: published protocol, mean over scans of 2TP/(2TP+FP+FN) over an organ's slices, each told by the query's "
    "own truth from which third of the organ it is. volume_dice: whole scans, no truth used. volume_hd95: mm, of "
    "scans where both masks are not empty; missed: the others. Intervals: 95 %, bootstrap over scans, none under "
    f"{FEWEST} scans; scans of one fold share their support, so that the true ones are wider. delta: dice of this row "
    "less that of the row `against`, over the scans that both have; p: Wilcoxon's signed-rank test of these "
    f"differences, two-sided, of scans' means in the mean's line, none under {LEAST_PAIRS} scans, not corrected for "
    "the number of rows."
)


def summary_of(
    found: Evaluated, config: FewshotConfig, against: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """A line for each row and organ, and for the organs' mean; see NOTES.

    against: row -> the row that it is held against; the first row where none is given.
    """
    organs = list(found.organs.values())
    values = {row: values_of(found.scores, row, organs) for row in found.ways}
    values = {row: one for row, one in values.items() if one.scans}
    first = next(iter(values))
    lines = []
    for row, one in values.items():
        way, held = found.ways[row], (against or {}).get(row, first)
        told = {
            "row": row,
            "source": way.source,
            "compat": way.compat,
            "shots": way.shots,
            "floor": way.floor,
        }
        measured = {name: _spread(of_NO, config) for name, of_NO in one.of.items()}
        delta_NO = _difference(one, values.get(held, one))
        measured["delta"] = _spread(delta_NO, config)
        p_O = [paired_p(column_N) for column_N in (*delta_NO.T, _scan_means(delta_NO))]
        scans_O, missed_O = _counts(one)
        for place, organ in enumerate((*organs, MEAN)):
            line = {**told, "organ": organ, "scans": scans_O[place], "missed": missed_O[place]}
            for name, ends in measured.items():
                line |= dict(zip((name, f"{name}_low", f"{name}_high"), ends[:, place].tolist(), strict=True))
            lines.append(line | {"against": held, "p": p_O[place], "note": few(scans_O[place])})
    return lines


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """All scores of one row. of: measure -> (N, O), NaN for an organ that a scan does not show."""

    scans: tuple[str, ...]
    of: Mapping[str, np.ndarray]

    def __repr__(self) -> str:
        return f"Values({len(self.scans)} scans)"


def values_of(scores: Sequence[Score], row: str, organs: Sequence[str]) -> Values:
    """The scores of one row as arrays, scans and organs in the order in which they come."""
    own = [score for score in scores if score.row == row]
    scans = list(dict.fromkeys(score.scan for score in own))
    of = {name: np.full((len(scans), len(organs)), np.nan) for name in MEASURES}
    for score in own:
        for name in MEASURES:
            of[name][scans.index(score.scan), organs.index(score.organ)] = getattr(score, name)
    return Values(tuple(scans), of)


def few(scans: int) -> str:
    """What is said beside a figure of few scans; nothing beside one of enough.

    >>> few(3), few(20)
    ('3 scans: too few for an interval', '')
    """
    return f"{scans} scan{'s' * (scans > 1)}: too few for an interval" if 0 < scans < FEWEST else ""


def paired_p(delta_N: np.ndarray) -> float:
    """Wilcoxon's signed-rank test, two-sided: how likely differences as lopsided as these are where there is none.

    NaN under `LEAST_PAIRS` scans, 1 where no scan differs. NaN among the differences is left out.
    """
    from scipy.stats import wilcoxon

    known_N = delta_N[~np.isnan(delta_N)]
    if len(known_N) < LEAST_PAIRS:
        return float("nan")
    differing_N = known_N[known_N != 0]
    return float(wilcoxon(differing_N).pvalue) if len(differing_N) else 1.0


def _difference(one: Values, other: Values) -> np.ndarray:
    """(N, O) of Dice over the scans that both rows have."""
    pairs = [(n, other.scans.index(scan)) for n, scan in enumerate(one.scans) if scan in other.scans]
    here, there = np.array(pairs, int).reshape(-1, 2).T
    return one.of["dice"][here] - other.of["dice"][there]


def _counts(values: Values) -> tuple[list[int], list[int]]:
    """How many scans show each organ, and in how many of them one of the whole volume's masks is empty; then all."""
    known_O = (~np.isnan(values.of["dice"])).sum(axis=0)
    missed_O = known_O - (~np.isnan(values.of["volume_hd95"])).sum(axis=0)
    return [*known_O.tolist(), len(values.scans)], [*missed_O.tolist(), int(missed_O.sum())]


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
    mean_O, ends = intervals(values_NO, config.resamples, config.seed)
    few_O = np.append((~np.isnan(values_NO)).sum(axis=0) < FEWEST, False)
    return np.stack([mean_O, *(np.where(few_O, np.nan, end_O) for end_O in ends)])
