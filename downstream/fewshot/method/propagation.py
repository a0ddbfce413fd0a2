"""Scores spread over a query: cells that look alike, in a slice and those around it, are of one organ.

Zhou et al., "Learning with local and global consistency", NIPS 2003, over each cell's nearest neighbors.
"""

# n slices of a plan, H, W pixels, h, w cells, P = h w cells of a slice, K neighbors, C channels, M = P cells of slices.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...volumes.volume import Volume
from .edges import SATURATION
from .grid import grid_mask, upsample
from .slices import SliceFeatures

REACH = 2
"""Neighbors are sought this many slices up and down."""

NEIGHBORS = 32
"""Neighbors of a cell, itself among them."""

TAU = 60.0
"""Factor of the cosines in a neighbor's weight, exp(tau cosine)."""

SPREAD = 0.9
"""Share of the neighbors' mean in a cell's new score; the rest is the score that it began with."""

ROUNDS = 4
"""How often scores are spread."""


class CellNeighbors(NamedTuple):
    """The neighbors of one slice's cells: their slices, cells and weights, (P, K) each."""

    slices: Tensor
    cells: Tensor
    weights: Tensor
    grid: tuple[int, int]


def neighbors(features: SliceFeatures, query: Volume, slices: Sequence[int]) -> dict[int, CellNeighbors]:
    """Slice -> its cells' nearest neighbors by cosine among all slices of the scan within `REACH`."""
    return {z: _slice_neighbors(features, query, z) for z in slices}


@lru_cache(maxsize=64)  # one scan's slices, half a megabyte each: organs with the same features share them
def _slice_neighbors(features: SliceFeatures, query: Volume, z: int) -> CellNeighbors:
    around = range(max(z - REACH, 0), min(z + REACH + 1, len(query.image_ZHW)))
    unit_nCP = F.normalize(features(query, around).flatten(2), dim=1)
    h, w = features(query, [z]).shape[2:]
    cosine_PM = unit_nCP[z - around[0]].T @ unit_nCP.permute(1, 0, 2).flatten(1)
    cosine_PK, place_PK = cosine_PM.topk(min(NEIGHBORS, cosine_PM.shape[1]), dim=1)
    weight_PK = (TAU * (cosine_PK - 1)).exp()
    return CellNeighbors(around[0] + place_PK // (h * w), place_PK % (h * w), weight_PK, (h, w))


def spread_margins(
    margins: Mapping[int, np.ndarray], graph: Mapping[int, CellNeighbors]
) -> dict[int, np.ndarray]:
    """Slice -> (H, W): margins plus what `ROUNDS` rounds over the neighbors on the grid change, enlarged to the image.

    Only neighbors in the margins' own slices count, so that a plan does not depend on another's.
    """
    if not margins:
        return {}
    slices = list(margins)
    grid = graph[slices[0]].grid
    score_nHW = torch.tanh(torch.from_numpy(np.stack(list(margins.values()))) / SATURATION)
    first_nhw = grid_mask(score_nHW, *grid)
    first_nP = score_nP = first_nhw.flatten(1)
    cells = first_nP.shape[1]
    row_Z = torch.full((max(slices) + REACH + 1,), -1)
    row_Z[slices] = torch.arange(len(slices))
    row_nPK = row_Z[torch.stack([graph[z].slices for z in slices])]
    cell_nPK = torch.stack([graph[z].cells for z in slices])
    weight_nPK = torch.stack([graph[z].weights for z in slices]) * (row_nPK >= 0)
    weight_nPK /= weight_nPK.sum(dim=2, keepdim=True)
    place_nPK = row_nPK.clamp(min=0) * cells + cell_nPK
    for _ in range(ROUNDS):
        mean_nP = (score_nP.flatten()[place_nPK] * weight_nPK).sum(dim=2)
        score_nP = (1 - SPREAD) * first_nP + SPREAD * mean_nP
    change_nhw = (score_nP - first_nP).unflatten(1, grid)
    score_nHW = score_nHW + upsample(change_nhw, *score_nHW.shape[1:])
    margin_nHW = SATURATION * torch.atanh(score_nHW.clamp(-0.999, 0.999))
    return dict(zip(slices, margin_nHW.numpy(), strict=True))
