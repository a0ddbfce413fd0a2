"""Stability of heads: does the head that attends to an organ from above attend to it from the side, too?

V views, S studies with both kinds of view, K organs, H heads, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import TypeAlias

import numpy as np

from ...platform.measure.results import Measurements, MetricValue
from .intervals import PatientBootstrap, mean_known, ratio

UPRIGHT = ("VD", "DV")
"""Projections from above or below; the other generated ones are from the side."""

Pick: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""(…, K) -> (…): the column of one organ, or the mean over organs."""


def head_stability(
    views: Sequence[tuple[str, str, str]],
    organs: Sequence[str],
    auc_VKH: np.ndarray,
    bootstrap: PatientBootstrap,
) -> Measurements:
    """Whether heads keep their organs from above to the side. views: (study, patient, projection) of each.

    `attention_same_head`: share of studies whose best head of an organ is the same in their views from above and from
    the side; 1 / H is chance. `attention_head_correlation`: Spearman's, over heads, between their mean AUC from above
    and from the side. `all` is the mean over organs.
    """
    heads = auc_VKH.shape[2]
    if heads == 1:
        return Measurements((), {"attention_same_head": "it has one head"})
    rows: dict[str, tuple[list[int], list[int]]] = {key: ([], []) for key, _, _ in views}
    for v, (key, _, projection) in enumerate(views):
        rows[key][projection in UPRIGHT].append(v)
    both = [key for key, (side, above) in rows.items() if side and above]
    if not both:
        return Measurements((), {"attention_same_head": "no study has views from above and from the side"})
    side_SKH, above_SKH = (
        np.stack([mean_known(auc_VKH[rows[key][kind]]) for key in both]) for kind in (0, 1)
    )
    known_SK = ~np.isnan(side_SKH + above_SKH).any(axis=2)
    same_SK = np.where(known_SK, _best_head(side_SKH) == _best_head(above_SKH), np.nan)
    patient_of = {key: patient for key, patient, _ in views}
    patients = [patient_of[key] for key in both]
    figures: list[MetricValue] = []
    left_out = {}
    for row, pick in organ_rows(organs):
        figures += bootstrap.means(row, {"attention_same_head": pick(same_SK)}, patients)
    if heads < 3:
        left_out["attention_head_correlation"] = "two heads have two orders only"
    else:
        means = [np.where(known_SK[..., None], one, 0.0) for one in (side_SKH, above_SKH)]
        figures += _correlations(means, known_SK, organs, patients, bootstrap)
    return Measurements(tuple(figures), left_out)


def organ_rows(organs: Sequence[str]) -> Iterator[tuple[str, Pick]]:
    """Name of a row -> how to pick its column out of (…, K): the mean over organs first, then each organ."""
    yield "all", lambda values: mean_known(values, axis=-1)
    for k, organ in enumerate(organs):
        yield organ, itemgetter((..., k))


def _best_head(auc_SKH: np.ndarray) -> np.ndarray:
    return np.nan_to_num(auc_SKH, nan=-1.0).argmax(axis=2)


def _correlations(
    auc_2SKH: Sequence[np.ndarray],
    known_SK: np.ndarray,
    organs: Sequence[str],
    patients: Sequence[str],
    bootstrap: PatientBootstrap,
) -> Iterator[MetricValue]:
    """Spearman's correlation over heads between the mean AUC of two kinds of view, by organ; 0 where not known."""

    def correlation(weight_RS: np.ndarray) -> np.ndarray:
        count_RK1 = (weight_RS @ known_SK)[..., None]
        means = [ratio(np.einsum("rs,skh->rkh", weight_RS, auc_SKH), count_RK1) for auc_SKH in auc_2SKH]
        return rank_correlation(*means)

    def picked(pick: Pick) -> Pick:
        return lambda weight_RS: pick(correlation(weight_RS))

    value_K = correlation(np.ones((1, len(patients))))[0]
    for row, pick in organ_rows(organs):
        if not np.isnan(pick(value_K)):
            bounds = bootstrap.interval(picked(pick), patients)
            counts = len(set(patients)), len(patients)
            yield bootstrap.value("attention_head_correlation", row, pick(value_K), bounds, *counts)


def rank_correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's correlation along the last axis; NaN where a value is NaN or all are equal."""
    from scipy.stats import rankdata

    ranks = [rankdata(values, axis=-1) for values in (one, other)]
    first, second = (values - values.mean(axis=-1, keepdims=True) for values in ranks)
    return ratio((first * second).sum(axis=-1), np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1)))
