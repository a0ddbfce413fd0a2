"""Attention and organs: which head of the last block attends to which organ of a generated animal.

V views, K organs, H heads, N patches of a view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...platform.measure.metrics import auroc
from ...platform.measure.results import Measurements, MetricValue
from ...platform.phantom.dog.xray import BACKGROUND
from .intervals import PatientBootstrap, mean_known, merged
from .stability import head_stability, organ_rows
from .tokenized import TokenizedView
from .vectors import key_hash


@dataclass(frozen=True, slots=True, eq=False)
class OrganOverlap:
    """How well the attention of each head agrees with each organ of one view; auc, lift: (K, H)."""

    key: str
    patient: str
    projection: str
    organs: tuple[str, ...]
    auc: np.ndarray
    lift: np.ndarray

    def __repr__(self) -> str:
        heads = self.auc.shape[1]
        return f"OrganOverlap({self.projection} of {self.key}, {len(self.organs)} organs, {heads} heads)"


def organ_overlap(key: str, patient: str, view: TokenizedView) -> OrganOverlap:
    """The agreement of each head's attention with each organ of a view of this study.

    Attention counts where the animal is, spread evenly over a patch. lift: the share of it inside the organ over the
    organ's share of the animal's area; 1 is chance. auc: how often a point of the organ gets more attention than a
    point of the animal outside it, ties counting half; 0.5 is chance. NaN for organs that the view does not show, or
    that fill it.
    """
    assert view.attention is not None  # of a backbone
    patches = view.patches
    animal_patches = patches.animal > 0
    attention_HN = view.attention[:, animal_patches].astype(float)
    animal_N = patches.animal[animal_patches].astype(float)
    organ_KN = np.minimum(patches.organs[:, animal_patches].astype(float), animal_N)
    area_K1 = organ_KN.sum(axis=1, keepdims=True) / animal_N.sum()
    share_KH = (organ_KN @ attention_HN.T) / (attention_HN @ animal_N)
    lift_KH = np.divide(share_KH, area_K1, out=np.full_like(share_KH, np.nan), where=area_K1 > 0)
    # Each patch counts twice, as the part that is organ and the part that is not, weighted by their areas.
    weight_KN = np.concatenate([organ_KN, animal_N - organ_KN], axis=1)
    truth_N = np.repeat([1.0, 0.0], len(animal_N))
    scores_NH = np.tile(attention_HN.T, (2, 1))
    auc_KH = auroc(np.repeat(truth_N[:, None], len(attention_HN), axis=1), scores_NH, weight_KN)
    lift_KH = np.where(np.isnan(auc_KH), np.nan, lift_KH)
    return OrganOverlap(key, patient, view.projection, patches.truth.organs, auc_KH, lift_KH)


def attention_figures(overlaps: Sequence[OrganOverlap], bootstrap: PatientBootstrap) -> Measurements:
    """The best head of each organ, and whether it is the same head in views from above and from the side.

    `attention_auc`, `attention_lift`: of the head that is best (mean AUC) on the other half of the patients, so that
    choosing does not flatter; `attention_auc_heads`: the mean over heads. `attention_best_head`: on all, from 0.
    `all` is the mean over organs. `head_stability` gives the rest.
    """
    organs = sorted({organ for one in overlaps for organ in one.organs} - set(BACKGROUND))
    auc_VKH, lift_VKH = _by_organ(overlaps, organs)
    patients = [one.patient for one in overlaps]
    half_V = np.array([key_hash(patient, bootstrap.seed) % 2 for patient in patients])
    head_2K = np.stack([best_heads(auc_VKH[half_V != half]) for half in (0, 1)])
    columns = {
        "attention_auc": _of_heads(auc_VKH, head_2K[half_V]),
        "attention_auc_heads": auc_VKH.mean(axis=2),
        "attention_lift": _of_heads(lift_VKH, head_2K[half_V]),
    }
    figures: list[MetricValue] = []
    for row, pick in organ_rows(organs):
        picked = {name: pick(column_VK) for name, column_VK in columns.items()}
        figures += bootstrap.means(row, picked, patients)
    for organ, head, column_V in zip(organs, best_heads(auc_VKH), auc_VKH[:, :, 0].T, strict=True):
        shown = [patient for patient, value in zip(patients, column_V, strict=True) if not np.isnan(value)]
        if shown:
            no_bounds, counts = (np.nan, np.nan), (len(set(shown)), len(shown))
            figures.append(bootstrap.value("attention_best_head", organ, head, no_bounds, *counts))
    missing = set(organs) - {figure.finding for figure in figures if figure.metric == "attention_auc"}
    left_out = {
        f"attention {organ}": "shown to one half of the patients or to none" for organ in sorted(missing)
    }
    best = Measurements(tuple(figures), left_out, {"heads": auc_VKH.shape[2]})
    studies = [(one.key, one.patient, one.projection) for one in overlaps]
    return merged([best, head_stability(studies, organs, auc_VKH, bootstrap)])


def best_heads(auc_VKH: np.ndarray) -> np.ndarray:
    """The head of largest mean AUC for each organ, (K,); -1 where no view shows it."""
    mean_KH = mean_known(auc_VKH)
    return np.where(np.isnan(mean_KH).all(axis=1), -1, np.nan_to_num(mean_KH, nan=-1.0).argmax(axis=1))


def _by_organ(overlaps: Sequence[OrganOverlap], organs: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """AUC and lift of all views, (V, K, H) each; NaN where a view does not show the organ."""
    table_2VKH = np.full((2, len(overlaps), len(organs), overlaps[0].auc.shape[1]), np.nan)
    for v, one in enumerate(overlaps):
        for organ, *values_2H in zip(one.organs, one.auc, one.lift, strict=True):
            if organ in organs:
                table_2VKH[:, v, organs.index(organ)] = values_2H
    return table_2VKH[0], table_2VKH[1]


def _of_heads(values_VKH: np.ndarray, heads_VK: np.ndarray) -> np.ndarray:
    """The values of one head for each view and organ, (V, K); NaN where the head is -1."""
    picked_VK = np.take_along_axis(values_VKH, heads_VK.clip(0)[..., None], axis=2)[..., 0]
    return np.where(heads_VK < 0, np.nan, picked_VK)
