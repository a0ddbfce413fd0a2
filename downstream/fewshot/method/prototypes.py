"""Adaptive local prototypes (ALP): an organ from one labelled slice or a few, our variant and two released ones.

A support slice's features are pooled into cells; cells that lie almost wholly in the organ, or almost wholly outside
it, are prototypes, and a query position belongs to the side whose prototypes it is more similar to. Ouyang et al.,
"Self-supervision with superpixels", arXiv 2007.09886 (the released code is `compat="alpnet"`);
Ayzenberg et al., "DINOv2 based self supervised learning for few shot medical image segmentation", arXiv 2403.03273
(`compat="levayz"`). Everything here works on tensors; the network is elsewhere.
"""

# N support slices (shots), O organs, C channels, h x w grid of features, H x W image, Q query slices, P query
# positions, K cells of all supports, k cells of one, S sets of prototypes, G mean prototypes of a set.

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
    grid_1Nhw = grid_mask(binary_NHW, *query_CHW.shape[-2:], config.compat)[None]
    sets = prototype_sets(supports_NCHW, grid_1Nhw, config, training=training)
    return prototype_scores(query_CHW[None], sets)[:, 0, 0]


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
    """The prototypes of some supports in S sets, each of which gives one score per position.

    cells: (K, C) unit vectors, pooled once for all sets. members: (S, K) bool, the cells of each set. means: (S, G, C)
    unit vectors; present: (S, G) bool, the means that the set has. The first O sets are the organs' backgrounds, then
    follow the organs' foregrounds, equally many for each organ, of whose scores the largest counts. tau: factor of
    every cosine with them.
    """

    organs: int
    cells: Tensor
    members: Tensor
    means: Tensor
    present: Tensor
    tau: float

    def __repr__(self) -> str:
        return f"PrototypeSets({self.organs} organs, {len(self.cells)} cells)"


class _SideSets(NamedTuple):
    """Sets of the foregrounds or of the backgrounds: `members`, `means` (not normalized) and `present` as above.

    The mean of nothing is a zero vector: its cosine with everything is 0, and so is the score of a set of it alone.
    """

    members: Tensor
    means: Tensor
    present: Tensor


def prototype_sets(
    supports_NCHW: Tensor, grid_ONhw: Tensor, config: PrototypeConfig, *, training: bool = False
) -> PrototypeSets:
    """The prototypes of O organs whose masks are already on the grid (shares 0..1).

    Raises ConfigError for a window that is larger than the grid.
    """
    supports_NChw = at_least_float32(supports_NCHW)
    grid_ONhw = grid_ONhw.to(supports_NChw)
    window = config.pooling_window(training)
    cells_NkC = _pooled(supports_NChw, window, config).flatten(2).mT
    organ_ONk = _pooled(grid_ONhw, window, config).flatten(2) > config.foreground_share
    gate_ONk = _pooled(grid_ONhw, config.gate_window(training), config).flatten(2)
    open_ON = (gate_ONk >= config.foreground_share).any(dim=2)
    ground_OK = (_pooled(1 - grid_ONhw, window, config) > config.background_share).flatten(1)
    with no_autocast(supports_NChw):
        sum_ONC, size_ON = torch.einsum("nchw,onhw->onc", supports_NChw, grid_ONhw), grid_ONhw.sum(dim=(2, 3))
        foreground = _FOREGROUND[config.compat](organ_ONk, open_ON, sum_ONC, size_ON)
        background = _background(supports_NChw, 1 - grid_ONhw, ground_OK, foreground.present.shape[1])
    return PrototypeSets(
        organs=len(grid_ONhw),
        cells=_unit(cells_NkC.flatten(0, 1)),
        members=torch.cat([background.members, foreground.members]),
        means=_unit(torch.cat([background.means, foreground.means])),
        present=torch.cat([background.present, foreground.present]),
        tau=config.cosine_factor(training),
    )


# Foreground sets of each variant. organ_ONk: cells that are local prototypes; open_ON: whether the gate lets a support
# use them; sum_ONC, size_ON: features summed over the organ, and its size in cells. In both released codes a support on
# whose grid the organ is lost takes part with a zero mean, whose cosine is 0.


def _foreground_ours(organ_ONk: Tensor, open_ON: Tensor, sum_ONC: Tensor, size_ON: Tensor) -> _SideSets:
    """One set: the local prototypes of all supports if one gate is open, and the mean over all their organ pixels."""
    open_O1 = open_ON.any(dim=1, keepdim=True)
    members_OK = (organ_ONk & open_O1[..., None]).flatten(1)
    mean_O1C = sum_ONC.sum(dim=1, keepdim=True) / (size_ON.sum(dim=1)[:, None, None] + MASK_EPSILON)
    return _SideSets(members_OK, mean_O1C, torch.ones_like(open_O1))


def _foreground_alpnet(organ_ONk: Tensor, open_ON: Tensor, sum_ONC: Tensor, size_ON: Tensor) -> _SideSets:
    """One set: local prototypes and every support's mean; if all gates are closed, the mean of these means alone."""
    open_O1 = open_ON.any(dim=1, keepdim=True)
    members_OK = (organ_ONk & open_O1[..., None]).flatten(1)
    mean_ONC = sum_ONC / (size_ON[..., None] + MASK_EPSILON)
    mean_ONC = torch.where(open_O1[..., None], mean_ONC, mean_ONC.mean(dim=1, keepdim=True))
    first_N = torch.arange(open_ON.shape[1], device=open_ON.device) == 0
    return _SideSets(members_OK, mean_ONC, open_O1 | first_N)


def _foreground_levayz(organ_ONk: Tensor, open_ON: Tensor, sum_ONC: Tensor, size_ON: Tensor) -> _SideSets:
    """A set for each support, with its own gate: its local prototypes and its mean."""
    mean_ONC = sum_ONC / (size_ON[..., None] + MASK_EPSILON)
    own_NN = torch.eye(open_ON.shape[1], dtype=torch.bool, device=organ_ONk.device)
    members_ONNk = (organ_ONk & open_ON[..., None])[:, None] & own_NN[..., None]
    present_S1 = torch.ones_like(open_ON).reshape(-1, 1)
    return _SideSets(members_ONNk.flatten(0, 1).flatten(1), mean_ONC.flatten(0, 1)[:, None], present_S1)


_FOREGROUND = {"ours": _foreground_ours, "alpnet": _foreground_alpnet, "levayz": _foreground_levayz}


def _background(supports_NChw: Tensor, ground_ONhw: Tensor, members_OK: Tensor, means: int) -> _SideSets:
    """One set: the background cells of all supports; if an organ leaves none, the mean of all background instead.

    Background that fills less than a millionth of the grid is rounding, not background. means: G, to match the
    foreground's.
    """
    size_O1 = ground_ONhw.sum(dim=(1, 2, 3))[:, None]
    mean_OC = torch.einsum("nchw,onhw->oc", supports_NChw, ground_ONhw) / (size_O1 + MASK_EPSILON)
    mean_OC = torch.where(size_O1 > 1e-6 * ground_ONhw[0].numel(), mean_OC, 0.0)
    first_G = torch.arange(means, device=members_OK.device) == 0
    present_OG = ~members_OK.any(dim=1, keepdim=True) & first_G
    return _SideSets(members_OK, mean_OC[:, None].expand(-1, means, -1), present_OG)


def _pooled(values: Tensor, window: int, config: PrototypeConfig) -> Tensor:
    """Means of (A, B, h, w) over adjacent windows; windows cut by the edge are kept in mode `ours` only."""
    if window > min(values.shape[2:]):
        raise ConfigError(
            f"prototypes: a window of {window} cells on a grid of {values.shape[2]} x {values.shape[3]}; "
            "choose a smaller prototypes.window and training_window, or a larger image"
        )
    return F.avg_pool2d(values, window, ceil_mode=config.compat == "ours", count_include_pad=False)


def _unit(x: Tensor) -> Tensor:
    """x / max(|x|, 1e-4) along the last axis."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=MIN_LENGTH)


# Scores ------------------------------------------------------------------------------------------


def prototype_scores(queries_QCHW: Tensor, sets: PrototypeSets) -> Tensor:
    """(2, O, Q, h, w): background and foreground scores of every organ at every position of Q slices of features.

    A set's score is the mean of d_k = tau cos(q, p_k) over its prototypes, weighted by softmax_k(d) (arXiv
    2007.09886); with a single prototype that is tau cos. An organ's foreground score is the largest of its sets'.
    Raises DataError for a non-finite score.
    """
    queries_QCHW = at_least_float32(queries_QCHW)
    with no_autocast(queries_QCHW):
        score_SP = _attention_scores(_unit(queries_QCHW.permute(0, 2, 3, 1).flatten(0, 2)), sets)
    if not torch.isfinite(score_SP.detach()).all():
        raise DataError("non-finite scores: the features hold NaN or infinity; look at their images")
    foreground_OP = score_SP[sets.organs :].unflatten(0, (sets.organs, -1)).amax(dim=1)
    queries, _, height, width = queries_QCHW.shape
    return torch.stack([score_SP[: sets.organs], foreground_OP]).unflatten(2, (queries, height, width))


def _attention_scores(query_PC: Tensor, sets: PrototypeSets) -> Tensor:
    """(S, P): softmax-weighted mean of tau cos over each set's prototypes.

    Cosines with cells are computed once, and all sets share the same exponentials: |d| <= tau, so exp(d - tau) neither
    overflows nor vanishes, and no (S, P, K) table is needed.
    """
    tau = sets.tau
    logit_PK = tau * query_PC @ sets.cells.T
    logit_PSG = tau * torch.einsum("pc,sgc->psg", query_PC, sets.means)
    weight_PK, weight_PSG = (logit_PK - tau).exp(), (logit_PSG - tau).exp() * sets.present
    members_KS = sets.members.T.to(logit_PK)
    numerator_PS = (weight_PK * logit_PK) @ members_KS + (weight_PSG * logit_PSG).sum(dim=2)
    denominator_PS = weight_PK @ members_KS + weight_PSG.sum(dim=2)
    return (numerator_PS / denominator_PS).T
