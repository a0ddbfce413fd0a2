"""How well scores order the truth: average precision and AUROC per finding.

One sort per finding serves all bootstrap resamples, each a whole-number weight per item (see `bootstrap`).

N items, F findings, R resamples, G groups of items with equal scores.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..core.errors import FeaturesError

Metric = Callable[..., np.ndarray]
"""`average_precision` or `auroc`."""

Area = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""True and false positives after each group, (R, G) each -> the metric, (R,)."""


def average_precision(
    truth_NF: np.ndarray, score_NF: np.ndarray, weight_RN: np.ndarray | None = None
) -> np.ndarray:
    """Area under precision over recall as a step function (scikit-learn's); equal scores count as one.

    truth: 1 present, 0 absent, NaN unknown (left out); score: any real number, larger is surer.
    Returns (F,), or (R, F) where weights are given; NaN where a finding has one class only or a NaN score,
    which has no place in an order. Raises FeaturesError for shapes that differ.
    """

    def area(true_RG: np.ndarray, false_RG: np.ndarray) -> np.ndarray:
        positive_RG = true_RG + false_RG
        precision_RG = np.divide(true_RG, positive_RG, out=np.zeros_like(positive_RG), where=positive_RG > 0)
        return (np.diff(true_RG, axis=1, prepend=0.0) * precision_RG).sum(axis=1) / true_RG[:, -1]

    return _per_finding(area, truth_NF, score_NF, weight_RN)


def auroc(truth_NF: np.ndarray, score_NF: np.ndarray, weight_RN: np.ndarray | None = None) -> np.ndarray:
    """How often a present finding scores above an absent one, ties counting half. As `average_precision`."""

    def area(true_RG: np.ndarray, false_RG: np.ndarray) -> np.ndarray:
        step_RG = np.diff(false_RG, axis=1, prepend=0.0)
        before_RG = np.concatenate([np.zeros_like(true_RG[:, :1]), true_RG[:, :-1]], axis=1)
        return (step_RG * (before_RG + true_RG) / 2).sum(axis=1) / (true_RG[:, -1] * false_RG[:, -1])

    return _per_finding(area, truth_NF, score_NF, weight_RN)


def macro(value_F: np.ndarray) -> float:
    """Mean over the findings that have a value, NaN where none has.

    >>> macro(np.array([0.5, np.nan, 1.0]))
    0.75
    """
    known = np.asarray(value_F)[~np.isnan(value_F)]
    return float(known.mean()) if known.size else float("nan")


def _per_finding(
    area: Area, truth_NF: np.ndarray, score_NF: np.ndarray, weight_RN: np.ndarray | None
) -> np.ndarray:
    """`area` for each finding: (F,), or (R, F) with weights."""
    truth_NF, score_NF = np.asarray(truth_NF, np.float64), np.asarray(score_NF, np.float64)
    if truth_NF.shape != score_NF.shape or truth_NF.ndim != 2:
        raise FeaturesError(f"truth is {truth_NF.shape}, scores are {score_NF.shape}; both must be (N, F)")
    weights = np.ones((1, len(truth_NF))) if weight_RN is None else weight_RN
    columns = [_of_finding(area, *pair, weights) for pair in zip(truth_NF.T, score_NF.T, strict=True)]
    value_RF = np.stack(columns, axis=1) if columns else np.empty((len(weights), 0))
    return value_RF[0] if weight_RN is None else value_RF


def _of_finding(area: Area, truth_N: np.ndarray, score_N: np.ndarray, weight_RN: np.ndarray) -> np.ndarray:
    """`area` for one finding, (R,): counts from the highest score down, taken after each group of ties."""
    known = np.flatnonzero(~np.isnan(truth_N))
    order = known[np.argsort(-score_N[known], kind="stable")]
    if not len(order) or np.isnan(score_N[order]).any():
        return np.full(len(weight_RN), np.nan)
    ends_G = np.append(np.flatnonzero(np.diff(score_N[order])), len(order) - 1)
    weight_RN, present_N = weight_RN[:, order], truth_N[order] > 0.5
    true_RG = np.cumsum(weight_RN * present_N, axis=1)[:, ends_G]
    false_RG = np.cumsum(weight_RN, axis=1)[:, ends_G] - true_RG
    both_R = (true_RG[:, -1] > 0) & (false_RG[:, -1] > 0)
    value_R = np.full(len(weight_RN), np.nan)
    if both_R.any():
        value_R[both_R] = area(true_RG[both_R], false_RG[both_R])
    return value_R
