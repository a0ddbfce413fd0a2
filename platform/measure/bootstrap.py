"""Metrics with intervals: the bootstrap over patients.

A patient's studies are alike, so the bootstrap draws patients, not studies. A resample is how often each patient was
drawn, used as a weight of the patient's items.

N items, F findings, R resamples, P patients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.errors import FeaturesError
from .metrics import Metric, macro

BLOCK = 4_000_000
"""Most weights (resamples x items) in memory at a time; 32 MB in float64."""

LEVEL = 0.95
"""Share of the resamples inside an interval."""


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """A metric per finding on all items, and on each resample of the patients.

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

    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """The 95 % percentile interval (low_F, high_F); NaN where under half of the resamples kept both classes."""
        return percentiles(np.where(np.isnan(self.values), np.nan, self.samples))

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


def bootstrap_samples(
    metric: Callable[[np.ndarray], np.ndarray],
    patients: Sequence[str],
    n: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """Any metric on `n` resamples of the patients: (n,) or (n, ...).

    metric: weights (R, N), how often each item was drawn -> values (R,) or (R, ...), NaN where undefined. The same
    patients, n and seed give the same resamples, so that the difference of two arrays is paired.
    """
    return np.concatenate([metric(weight_RN) for weight_RN in _resamples(patients, n, seed)])


def bootstrap_interval(
    metric: Callable[[np.ndarray], np.ndarray],
    patients: Sequence[str],
    n: int = 1000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % percentile interval of `bootstrap_samples`."""
    return percentiles(bootstrap_samples(metric, patients, n, seed))


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


def percentiles(sample_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % interval along the first axis over what is known; NaN where less than half is."""
    sample_RX = sample_R.reshape(len(sample_R), -1)
    bounds_2X = np.full((2, sample_RX.shape[1]), np.nan)
    for x, column_R in enumerate(sample_RX.T):
        known = column_R[~np.isnan(column_R)]
        if len(known) * 2 >= len(column_R):
            bounds_2X[:, x] = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = bounds_2X.reshape(2, *sample_R.shape[1:])
    return low, high
