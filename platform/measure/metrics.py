"""How well scores order the truth: average precision and AUROC per finding, with intervals over patients.

A patient's studies are alike, so it is patients, not studies, that the bootstrap draws. A resample is a whole
number of times that each patient was drawn, used as a weight: one sort per finding then serves all resamples.

N items, F findings, R resamples, P patients, G groups of items with equal scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..core.errors import FeaturesError

Metric = Callable[..., np.ndarray]

BLOCK = 4_000_000
"""Most weights (resamples x items) in memory at a time; 32 MB in float64."""


def average_precision(
    truth_NF: np.ndarray, score_NF: np.ndarray, weight_RN: np.ndarray | None = None
) -> np.ndarray:
    """Area under precision over recall as a step function (scikit-learn's); equal scores count as one.

    truth: 1 present, 0 absent, NaN unknown (left out); score: any real number, larger is surer.
    Returns (F,), or (R, F) where weights are given; NaN where a finding has one class only or a NaN score,
    which has no place in an order. Raises FeaturesError for shapes that differ.
    """

    def area(found_RG: np.ndarray, wrong_RG: np.ndarray) -> np.ndarray:
        taken_RG = found_RG + wrong_RG
        precision_RG = np.divide(found_RG, taken_RG, out=np.zeros_like(taken_RG), where=taken_RG > 0)
        return (np.diff(found_RG, axis=1, prepend=0.0) * precision_RG).sum(axis=1) / found_RG[:, -1]

    return _per_finding(area, truth_NF, score_NF, weight_RN)


def auroc(truth_NF: np.ndarray, score_NF: np.ndarray, weight_RN: np.ndarray | None = None) -> np.ndarray:
    """How often a present finding scores above an absent one, ties counting half. As `average_precision`."""

    def area(found_RG: np.ndarray, wrong_RG: np.ndarray) -> np.ndarray:
        step_RG = np.diff(wrong_RG, axis=1, prepend=0.0)
        before_RG = np.concatenate([np.zeros_like(found_RG[:, :1]), found_RG[:, :-1]], axis=1)
        return (step_RG * (before_RG + found_RG) / 2).sum(axis=1) / (found_RG[:, -1] * wrong_RG[:, -1])

    return _per_finding(area, truth_NF, score_NF, weight_RN)


def macro(value_F: np.ndarray) -> float:
    """Mean over the findings that have a value, NaN where none has.

    >>> macro(np.array([0.5, np.nan, 1.0]))
    0.75
    """
    known = np.asarray(value_F)[~np.isnan(value_F)]
    return float(known.mean()) if known.size else float("nan")


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """One figure per finding with the spread that other patients could have given it.

    values: (F,) on all items. samples: (R, F) on each resample, NaN where it lost a class. Two estimates of
    the same patients, n and seed share their resamples: `a - b` is the paired difference.
    """

    values: np.ndarray
    samples: np.ndarray

    def __sub__(self, other: Estimate) -> Estimate:
        return Estimate(self.values - other.values, self.samples - other.samples)

    def macro(self) -> Estimate:
        """The mean over findings, as an estimate with one column; in a resample over those it still has."""
        known_RF = ~np.isnan(self.samples) & ~np.isnan(self.values)
        count_R = known_RF.sum(axis=1)
        total_R = np.where(known_RF, self.samples, 0.0).sum(axis=1)
        mean_R = np.divide(total_R, count_R, out=np.full(len(count_R), np.nan), where=count_R > 0)
        return Estimate(np.array([macro(self.values)]), mean_R[:, None])

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Percentile interval (low_F, high_F); NaN where under half of the resamples kept both classes."""
        return _percentiles(np.where(np.isnan(self.values), np.nan, self.samples), level)

    def __repr__(self) -> str:
        return f"Estimate({len(self.values)} findings, {len(self.samples)} resamples)"


def estimate(
    metric: Metric,
    truth_NF: np.ndarray,
    score_NF: np.ndarray,
    patients: Sequence[str],
    n: int = 1000,
    seed: int = 0,
) -> Estimate:
    """`metric` (`average_precision` or `auroc`) on all items and on `n` resamples of their patients."""
    if len(patients) != len(truth_NF):
        raise FeaturesError(f"{len(patients)} patients for {len(truth_NF)} items; give one patient per item")
    blocks = [metric(truth_NF, score_NF, weight_RN) for weight_RN in _resamples(patients, n, seed)]
    return Estimate(metric(truth_NF, score_NF), np.concatenate(blocks))


def difference(
    metric: Metric,
    truth_NF: np.ndarray,
    score_NF: np.ndarray,
    other_NF: np.ndarray,
    patients: Sequence[str],
    n: int = 1000,
    seed: int = 0,
) -> Estimate:
    """The metric of `score` minus that of `other` on the same items, resampled together (paired)."""
    return estimate(metric, truth_NF, score_NF, patients, n, seed) - estimate(
        metric, truth_NF, other_NF, patients, n, seed
    )


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What one way of answering says of the items of a split, beside the truth.

    findings: (F,), those that can be measured. patients: (N,). truth, scores: (N, F) as in `auroc`.
    left_out: finding -> why it is not measured. facts: what it took, such as the k chosen.
    """

    findings: tuple[str, ...]
    patients: tuple[str, ...]
    truth: np.ndarray
    scores: np.ndarray
    left_out: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str | int | float] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Answers({len(self.patients)} items, {len(self.findings)} findings)"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number: which metric (AUROC, AP), of which finding (or `macro`), of whose answers.

    low and high bound the 95 % interval over patients; NaN where there are too few of them for one. present
    and known count the labels it rests on; for `macro`, those of all findings.
    """

    metric: str
    finding: str
    source: str
    value: float
    low: float
    high: float
    present: int
    known: int


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What a task found that is no answer to findings, such as how well one view finds the other.

    figures: a row's name stands in `finding`. left_out: row -> why it is not measured. facts: what it took.
    pictures: file name -> PNG.
    """

    figures: tuple[Figure, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str | int | float] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Measured({len(self.figures)} figures, {len(self.pictures)} pictures)"


def figures_of(answers: Mapping[str, Answers], n: int = 1000, seed: int = 0) -> list[Figure]:
    """AUROC and AP, macro and per finding, of each source; then of the first minus each other (`a - b`).

    The differences are paired: all sources answer the same items and are resampled together. Raises
    FeaturesError where they do not, or where no finding is left to measure.
    """
    first, *others = answers
    base = answers[first]
    for name in others:
        other = answers[name]
        if (other.findings, other.patients) != (base.findings, base.patients):
            raise FeaturesError(f"{first} and {name} answer other studies or findings; extract both again")
    if not base.findings:
        why = "; ".join(f"{name}: {reason}" for name, reason in base.left_out.items()) or "there are none"
        raise FeaturesError(f"no finding can be measured ({why}); ingest more labelled studies")
    figures = []
    for title, metric in (("AUROC", auroc), ("AP", average_precision)):
        estimates = {
            name: estimate(metric, base.truth, answer.scores, base.patients, n, seed)
            for name, answer in answers.items()
        }
        estimates |= {f"{first} - {name}": estimates[first] - estimates[name] for name in others}
        for source, spread in estimates.items():
            figures += _rows(title, source, ("macro",), spread.macro(), base.truth.reshape(-1, 1))
            figures += _rows(title, source, base.findings, spread, base.truth)
    return figures


def _rows(
    metric: str, source: str, names: Sequence[str], spread: Estimate, truth_NF: np.ndarray
) -> Iterator[Figure]:
    columns = zip(names, spread.values, *spread.interval(), truth_NF.T, strict=True)
    for name, value, low, high, truth_N in columns:
        present, known = int((truth_N == 1).sum()), int((~np.isnan(truth_N)).sum())
        yield Figure(metric, name, source, float(value), float(low), float(high), present, known)


def bootstrap_interval(
    fn: Callable[[np.ndarray], np.ndarray],
    patients: Sequence[str],
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of any figure over resampled patients.

    fn: weights (R, N), how often each item was drawn -> figures (R,) or (R, ...), NaN where undefined.
    """
    return _percentiles(np.concatenate([fn(weight_RN) for weight_RN in _resamples(patients, n, seed)]), level)


def _resamples(patients: Sequence[str], n: int, seed: int) -> Iterator[np.ndarray]:
    """Weights (R, N) in blocks, `n` resamples in all: every one draws as many patients as there are."""
    names, patient_N = np.unique(np.asarray(patients), return_inverse=True)
    if not len(names):
        raise FeaturesError("no items to resample; the split is empty")
    random = np.random.default_rng(seed)
    chance_P = np.full(len(names), 1 / len(names))
    size = max(1, BLOCK // len(patient_N))
    for start in range(0, n, size):
        drawn_RP = random.multinomial(len(names), chance_P, size=min(size, n - start))
        yield drawn_RP[:, patient_N].astype(np.float64)


def _per_finding(area, truth_NF, score_NF, weight_RN) -> np.ndarray:
    """`area` of each finding's swept counts: (F,), or (R, F) with weights."""
    truth_NF, score_NF = np.asarray(truth_NF, np.float64), np.asarray(score_NF, np.float64)
    if truth_NF.shape != score_NF.shape or truth_NF.ndim != 2:
        raise FeaturesError(f"truth is {truth_NF.shape}, scores are {score_NF.shape}; both must be (N, F)")
    weights = np.ones((1, len(truth_NF))) if weight_RN is None else weight_RN
    columns = [_swept(area, *pair, weights) for pair in zip(truth_NF.T, score_NF.T, strict=True)]
    value_RF = np.stack(columns, axis=1) if columns else np.empty((len(weights), 0))
    return value_RF[0] if weight_RN is None else value_RF


def _swept(area, truth_N: np.ndarray, score_N: np.ndarray, weight_RN: np.ndarray) -> np.ndarray:
    """One finding: items from the surest down, what was found and what was wrong after each group of ties."""
    known = np.flatnonzero(~np.isnan(truth_N))
    order = known[np.argsort(-score_N[known], kind="stable")]
    if not len(order) or np.isnan(score_N[order]).any():
        return np.full(len(weight_RN), np.nan)
    ends_G = np.append(np.flatnonzero(np.diff(score_N[order])), len(order) - 1)
    weight_RN, present_N = weight_RN[:, order], truth_N[order] > 0.5
    found_RG = np.cumsum(weight_RN * present_N, axis=1)[:, ends_G]
    wrong_RG = np.cumsum(weight_RN, axis=1)[:, ends_G] - found_RG
    both_R = (found_RG[:, -1] > 0) & (wrong_RG[:, -1] > 0)
    value_R = np.full(len(weight_RN), np.nan)
    if both_R.any():
        value_R[both_R] = area(found_RG[both_R], wrong_RG[both_R])
    return value_R


def _percentiles(sample_R: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Percentiles along the first axis over what is known; NaN where less than half is."""
    sample_RX = sample_R.reshape(len(sample_R), -1)
    bounds_2X = np.full((2, sample_RX.shape[1]), np.nan)
    for x, column_R in enumerate(sample_RX.T):
        known = column_R[~np.isnan(column_R)]
        if len(known) * 2 >= len(column_R):
            bounds_2X[:, x] = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    low, high = bounds_2X.reshape(2, *sample_R.shape[1:])
    return low, high
