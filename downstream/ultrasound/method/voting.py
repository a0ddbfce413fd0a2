"""Which clusters are foreground: CLS attention as saliency, and the votes of the images.

Amir et al., 2112.05814, section 4.2, with the voting of "Robustness of self-supervised ViT features in b-mode images".

I images, R x C the patch grid of one, H attention heads, K clusters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ....platform.core.errors import ConfigError, DataError
from ..config import CosegmentConfig

EDGE = 0.4
"""What a patch at the edge of a frame loses of its `bone_saliency`: about the spread of a difference of two ranks."""


def saliency_map(attention_HRC: np.ndarray, config: CosegmentConfig) -> np.ndarray:
    """(R, C) float64: the mean over heads, scaled within this image; 0 everywhere where it is constant.

    Raises DataError for attention that is non-finite or below 0, ConfigError for a head that does not exist.
    """
    attention_HRC = np.asarray(attention_HRC, np.float64)
    if attention_HRC.ndim != 3 or not (np.isfinite(attention_HRC).all() and (attention_HRC >= 0).all()):
        raise DataError(
            f"attention of shape {attention_HRC.shape} must be (heads, rows, columns) of numbers of at least 0; "
            "check the backbone"
        )
    if config.heads and max(config.heads) >= len(attention_HRC):
        raise ConfigError(
            f"cosegment.heads is {config.heads}, but there are {len(attention_HRC)} heads, counted from 0"
        )
    mean_RC = attention_HRC[list(config.heads) or slice(None)].mean(axis=0)
    saliency_RC = _scale(mean_RC, config.saliency or "minmax")
    return saliency_RC.min() + saliency_RC.max() - saliency_RC if config.away else saliency_RC


def bone_saliency(
    attention_HRC: np.ndarray, brightness_RC: np.ndarray, config: CosegmentConfig
) -> np.ndarray:
    """(R, C) float64: what attention favors although it is dark, and not at the edge: bone and its shadow.

    The rank of the attention minus that of the brightness, both 0..1, minus EDGE times the distance from the center (0)
    to the edge (1). Attention alone favors bright layers of fascia, which are as many small patches.
    brightness: mean gray of each patch. Raises as `saliency_map` does.
    """
    dark_RC = saliency_map(attention_HRC, replace(config, saliency="rank")) - _scale(brightness_RC, "rank")
    row_R, column_C = (
        np.abs(np.linspace(-1, 1, side)) if side > 1 else np.zeros(1) for side in dark_RC.shape
    )
    return dark_RC - EDGE * np.maximum.outer(row_R, column_C)


def _scale(mean_RC: np.ndarray, saliency: str) -> np.ndarray:
    if saliency == "raw":
        return mean_RC
    if saliency == "rank":  # equal attention, equal rank
        ranks = np.unique(mean_RC, return_inverse=True)[1].reshape(mean_RC.shape)
        return ranks / max(ranks.max(), 1)
    low, size = (mean_RC.min(), np.ptp(mean_RC)) if saliency == "minmax" else (0.0, mean_RC.sum())
    return (mean_RC - low) / size if size > 0 else np.zeros_like(mean_RC)


def cluster_saliency(clusters: Sequence[np.ndarray], k: int, saliency: Sequence[np.ndarray]) -> np.ndarray:
    """(I, K): Sal(S_k^I), the mean over an image's patches of a cluster; NaN where it has none."""
    saliency_IK = np.full((len(saliency), k), np.nan)
    for row_K, cluster_RC, one_RC in zip(saliency_IK, clusters, saliency, strict=True):
        count_K = np.bincount(cluster_RC.ravel(), minlength=k)
        total_K = np.bincount(cluster_RC.ravel(), one_RC.ravel(), minlength=k)
        np.divide(total_K, count_K, out=row_K, where=count_K > 0)
    return saliency_IK


def largest_taus(saliency_IK: np.ndarray, needed: int) -> np.ndarray:
    """(K,): the largest tau at which each cluster is foreground under vote mean; -inf where too few images have it.

    >>> largest_taus(np.array([[0.3, 0.1], [0.2, np.nan]]), needed=2).tolist()
    [0.2, -inf]
    """
    return np.sort(np.where(np.isnan(saliency_IK), -np.inf, saliency_IK), axis=0)[-needed]


def needed_images(count: int, config: CosegmentConfig) -> int:
    """How many of `count` images `share` is, rounded up."""
    # 0.55 * 20 is a little over 11.
    return math.ceil(config.share * count - 1e-9)


def count_votes(saliency_IK: np.ndarray, config: CosegmentConfig) -> tuple[np.ndarray, int]:
    """(votes (K,) int64, votes that make a cluster foreground), each image one vote a cluster unless vote is literal.

    An image does not vote for a cluster it lacks.

    >>> saliency_IK = np.array([[0.3, 0.1], [0.2, np.nan]])
    >>> count_votes(saliency_IK, CosegmentConfig())
    (array([2, 0]), 2)
    >>> count_votes(saliency_IK, CosegmentConfig(vote="literal"))
    (array([1, 0]), 2)
    """
    needed = needed_images(len(saliency_IK), config)
    if config.vote == "literal":
        return (np.nansum(saliency_IK, axis=0) >= config.tau).astype(np.int64), needed
    return (saliency_IK >= config.tau).sum(axis=0), needed  # NaN compares as False
