"""Adaptive local prototypes (ALP): an organ from one labeled slice or a few, our variant and two released ones.

A support slice's features are pooled into cells; cells that lie almost wholly in the organ, or almost wholly outside
it, are prototypes, and a query position belongs to the side whose prototypes it is more similar to. Ouyang et al.,
"Self-supervision with superpixels", arXiv 2007.09886 (the released code is `compat="alpnet"`);
Ayzenberg et al., "DINOv2 based self supervised learning for few shot medical image segmentation", arXiv 2403.03273
(`compat="levayz"`). Everything here works on tensors; the network is elsewhere.
"""

# N support slices (shots), C channels, h x w grid of features, H x W image, Q query slices, P query positions,
# K cells of all supports, k cells of one, F sets of foreground prototypes, S = 1 + F sets, G mean prototypes of a set.

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ....platform.core.errors import ConfigError, DataError
from .config import PrototypeConfig
from .grid import at_least_float32, grid_mask, no_autocast

MIN_LENGTH = 1e-4
"""A shorter vector is divided by this instead of its length: it has no reliable direction."""

LARGEST_SHARED_TAU = 40.0
"""Up to here exp(-2 tau) is far from the smallest float32, so that all sets can share one table of exponentials."""

MASK_EPSILON = 1e-5
"""Added to the sum of a mask before dividing by it, as in both released codes."""


def predict(
    query_CHW: Tensor,
    supports_NCHW: Tensor,
    masks_NHW: Tensor,
    config: PrototypeConfig | None = None,
    *,
    training: bool = False,
) -> Tensor:
    """Logits (2, h, w) of background and organ at every position of a query slice (1-way, N-shot).

    query: features (C, h, w); supports: (N, C, h, w); masks: (N, H, W) bool or 0 and 1, on the image. Computed in
    float32 at least, under autograd, on the features' device. Raises DataError for a mask that is empty in all
    supports, shapes that do not fit and features that are not finite; ConfigError for a window larger than the grid.
    Source: arXiv 2007.09886; see `PrototypeConfig.compat`.
    """
    config = config or PrototypeConfig()
    check_shapes(query_CHW, supports_NCHW, masks_NHW)
    binary_NHW = (masks_NHW > 0.5).to(query_CHW.device)
    if not binary_NHW.any():
        raise DataError(
            f"the mask is empty in all {len(masks_NHW)} support slices; choose support slices that show the organ"
        )
    h, w = query_CHW.shape[-2:]
    grid_Nhw = grid_mask(binary_NHW, h, w, config.compat)
    sets = prototype_sets(supports_NCHW, grid_Nhw, config, training=training)
    return prototype_scores(query_CHW[None], sets)[:, 0]


def check_shapes(query_CHW: Tensor, supports_NCHW: Tensor, masks_NHW: Tensor) -> None:
    """Raises DataError unless supports have the query's shape, and each support has a mask."""
    if query_CHW.ndim != 3 or supports_NCHW.shape[1:] != query_CHW.shape or not len(supports_NCHW):
        raise DataError(
            f"query features {tuple(query_CHW.shape)} and support features {tuple(supports_NCHW.shape)} must be "
            "(C, h, w) and (N, C, h, w), N at least 1; take both from the same encoder at the same side"
        )
    if masks_NHW.ndim != 3 or len(masks_NHW) != len(supports_NCHW):
        raise DataError(
            f"support masks {tuple(masks_NHW.shape)} must be (N, H, W), one for each of the "
            f"{len(supports_NCHW)} support slices"
        )


# Prototypes --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class PrototypeSets:
    """The prototypes of an organ's supports in S sets, each of which gives one score per position.

    cells: (K, C) unit vectors, pooled once for all sets. members: (S, K) bool, the cells of each set. means: (S, G, C)
    unit vectors; present: (S, G) bool, the means that the set has. The first set is the background; of the foreground
    sets the one with the largest score counts. tau: factor of every cosine with them.
    """

    cells: Tensor
    members: Tensor
    means: Tensor
    present: Tensor
    tau: float

    def __repr__(self) -> str:
        return f"PrototypeSets({len(self.members)} sets, {len(self.cells)} cells)"


class _SideSets(NamedTuple):
    """Sets of the foreground or of the background: `members`, `means` (not normalized) and `present` as above.

    The mean of nothing is a zero vector: its cosine with everything is 0, and so is the score of a set of it alone.
    """

    members: Tensor
    means: Tensor
    present: Tensor


def prototype_sets(
    supports_NCHW: Tensor, grid_Nhw: Tensor, config: PrototypeConfig, *, training: bool = False
) -> PrototypeSets:
    """The prototypes of an organ whose masks are already on the grid (shares 0..1).

    Raises ConfigError for a window that is larger than the grid.
    """
    supports_NChw = at_least_float32(supports_NCHW)
    grid_Nhw = grid_Nhw.to(supports_NChw)
    window = config.pooling_window(training)
    cells_NkC = pooled(supports_NChw, window, config).flatten(2).mT
    organ_Nk = pooled(grid_Nhw, window, config).flatten(1) > config.foreground_share
    gate_Nk = pooled(grid_Nhw, config.gate_window(training), config).flatten(1)
    open_N = (gate_Nk >= config.foreground_share).any(dim=1)
    ground_K = (pooled(1 - grid_Nhw, window, config) > config.background_share).flatten()
    with no_autocast(supports_NChw):
        # The order of the operands decides how these sums are rounded, here and in `_background`.
        sum_NC, size_N = torch.einsum("nhw,nchw->nc", grid_Nhw, supports_NChw), grid_Nhw.sum(dim=(1, 2))
        foreground = _FOREGROUND[config.compat](organ_Nk, open_N, sum_NC, size_N)
        background = _background(supports_NChw, 1 - grid_Nhw, ground_K, foreground.present.shape[1])
    return PrototypeSets(
        cells=_unit(cells_NkC.flatten(0, 1)),
        members=torch.cat([background.members, foreground.members]),
        means=_unit(torch.cat([background.means, foreground.means])),
        present=torch.cat([background.present, foreground.present]),
        tau=config.cosine_factor(training),
    )


# Foreground sets of each variant. organ_Nk: cells that are local prototypes; open_N: whether the gate lets a support
# use them; sum_NC, size_N: features summed over the organ, and its size in cells. In both released codes a support on
# whose grid the organ is lost takes part with a zero mean, whose cosine is 0.


def _foreground_ours(organ_Nk: Tensor, open_N: Tensor, sum_NC: Tensor, size_N: Tensor) -> _SideSets:
    """One set: the local prototypes of all supports if one gate is open, and the mean over all their organ pixels."""
    mean_C = sum_NC.sum(dim=0) / (size_N.sum() + MASK_EPSILON)
    members_1K = (organ_Nk & open_N.any()).reshape(1, -1)
    return _SideSets(members_1K, mean_C[None, None], torch.ones_like(open_N[None, :1]))


def _foreground_alpnet(organ_Nk: Tensor, open_N: Tensor, sum_NC: Tensor, size_N: Tensor) -> _SideSets:
    """One set: local prototypes and every support's mean; if all gates are closed, the mean of these means alone."""
    is_open = open_N.any()
    mean_NC = sum_NC / (size_N[:, None] + MASK_EPSILON)
    mean_NC = torch.where(is_open, mean_NC, mean_NC.mean(dim=0, keepdim=True))
    first_N = torch.arange(len(open_N), device=open_N.device) == 0
    return _SideSets((organ_Nk & is_open).reshape(1, -1), mean_NC[None], (is_open | first_N)[None])


def _foreground_levayz(organ_Nk: Tensor, open_N: Tensor, sum_NC: Tensor, size_N: Tensor) -> _SideSets:
    """A set for each support, with its own gate: its local prototypes and its mean."""
    mean_NC = sum_NC / (size_N[:, None] + MASK_EPSILON)
    own_NN = torch.eye(len(open_N), dtype=torch.bool, device=open_N.device)
    members_NNk = (organ_Nk & open_N[:, None]) & own_NN[..., None]
    return _SideSets(members_NNk.flatten(1), mean_NC[:, None], torch.ones_like(open_N[:, None]))


_FOREGROUND = {"ours": _foreground_ours, "alpnet": _foreground_alpnet, "levayz": _foreground_levayz}


def _background(supports_NChw: Tensor, ground_Nhw: Tensor, ground_K: Tensor, means: int) -> _SideSets:
    """One set: the background cells of all supports; if the organ leaves none, the mean of all background instead.

    Background that fills less than a millionth of the grid is rounding, not background. means: G, to match the
    foreground's.
    """
    size = ground_Nhw.sum()
    mean_C = torch.einsum("nhw,nchw->c", ground_Nhw, supports_NChw) / (size + MASK_EPSILON)
    mean_C = torch.where(size > 1e-6 * ground_Nhw.numel(), mean_C, 0.0)
    first_G = torch.arange(means, device=ground_K.device) == 0
    return _SideSets(ground_K[None], mean_C.expand(1, means, -1), (~ground_K.any() & first_G)[None])


def pooled(values: Tensor, window: int, config: PrototypeConfig) -> Tensor:
    """Means of (…, h, w) over adjacent windows; windows cut by the edge are kept in mode `ours` only."""
    height, width = values.shape[-2:]
    if window > min(height, width):
        raise ConfigError(
            f"prototypes: a window of {window} cells on a grid of {height} x {width}; "
            "choose a smaller prototypes.window and training_window, or a larger image"
        )
    return F.avg_pool2d(values, window, ceil_mode=config.compat == "ours", count_include_pad=False)


def _unit(x: Tensor) -> Tensor:
    """x / max(|x|, 1e-4) along the last axis."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=MIN_LENGTH)


# Scores ------------------------------------------------------------------------------------------


def prototype_scores(queries_QCHW: Tensor, sets: PrototypeSets) -> Tensor:
    """(2, Q, h, w): background and foreground scores at every position of Q slices of features.

    A set's score is the mean of d_k = tau cos(q, p_k) over its prototypes, weighted by softmax_k(d) (arXiv
    2007.09886); with a single prototype that is tau cos. The foreground score is the largest of its sets'. Raises
    DataError for a non-finite score.
    """
    queries_QCHW = at_least_float32(queries_QCHW)
    with no_autocast(queries_QCHW):
        score_SP = _attention_scores(_unit(queries_QCHW.permute(0, 2, 3, 1).flatten(0, 2)), sets)
    if not torch.isfinite(score_SP.detach()).all():
        raise DataError("non-finite scores: the features hold NaN or infinity; look at their images")
    queries, _, height, width = queries_QCHW.shape
    score_2P = torch.stack([score_SP[0], score_SP[1:].amax(dim=0)])
    return score_2P.unflatten(1, (queries, height, width))


def _attention_scores(query_PC: Tensor, sets: PrototypeSets) -> Tensor:
    """(S, P): softmax-weighted mean of tau cos over each set's prototypes.

    Cosines with cells are computed once. Up to LARGEST_SHARED_TAU all sets share the same exponentials: |d| <= tau, so
    exp(d - tau) neither overflows nor vanishes, and no (S, P, K) table is needed. Above, each set has a softmax of its
    own, which subtracts the set's largest d.
    """
    tau = sets.tau
    logit_PK = tau * query_PC @ sets.cells.T
    logit_PSG = tau * torch.einsum("pc,sgc->psg", query_PC, sets.means)
    if tau > LARGEST_SHARED_TAU:
        score_SP = []
        for logit_PG, members_K, present_G in zip(
            logit_PSG.unbind(dim=1), sets.members, sets.present, strict=True
        ):
            logit_PM = torch.cat([logit_PK[:, members_K], logit_PG[:, present_G]], dim=1)
            score_SP.append((logit_PM.softmax(dim=1) * logit_PM).sum(dim=1))
        return torch.stack(score_SP)
    weight_PK, weight_PSG = (logit_PK - tau).exp(), (logit_PSG - tau).exp() * sets.present
    members_KS = sets.members.T.to(logit_PK)
    numerator_PS = (weight_PK * logit_PK) @ members_KS + (weight_PSG * logit_PSG).sum(dim=2)
    denominator_PS = weight_PK @ members_KS + weight_PSG.sum(dim=2)
    return (numerator_PS / denominator_PS).T
