"""From margins to masks: spread, smoothed along the scan, drawn to edges, cut to components, joined to a label map."""

# Z slices of a scan, n predicted slices, H, W pixels.

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...volumes.volume import Volume
from .components import count_components, keep_components
from .config import Components
from .edges import edge_aligned
from .predictors import Predictor
from .propagation import neighbors, spread_margins
from .protocol import PARTS
from .slices import SliceFeatures, intensity_scale
from .support import SupportSet


def slice_margins(
    predictor: Predictor,
    support: SupportSet,
    query: Volume,
    *parts: Mapping[int, int],
    smooth: float = 0.0,
    edges: float = 0.0,
    features: SliceFeatures | None = None,
) -> list[dict[int, np.ndarray]]:
    """For each plan (slice -> part) the margins of its slices, (H, W) each; what two plans share is predicted once.

    smooth: standard deviation of the Gaussian that averages a plan's margins along the scan, in slices. edges: radius
    of `edge_aligned`, as a share of a slice's shorter side; 0: none. features: of the query, over which its margins are
    spread first (`propagation`); None: they are not.
    """
    margins: dict[tuple[int, int], np.ndarray] = {}
    for part in range(PARTS):
        slices = sorted({z for plan in parts for z, its_part in plan.items() if its_part == part})
        if slices:
            margin_nHW = predictor(support, part, query, slices).numpy()
            margins |= {(part, z): margin_HW for z, margin_HW in zip(slices, margin_nHW, strict=True)}
    plans = [{z: margins[part, z] for z, part in plan.items()} for plan in parts]
    if features is not None:
        union = sorted({z for plan in parts for z in plan})
        graph = neighbors(features, query, union)
        plans = [spread_margins(plan, graph) for plan in plans]
    if smooth:
        plans = [smoothed_margins(plan, smooth) for plan in plans]
    return [_edge_aligned(plan, query, edges) for plan in plans] if edges else plans


def _edge_aligned(margins: Mapping[int, np.ndarray], query: Volume, edges: float) -> dict[int, np.ndarray]:
    radius = max(1, round(edges * min(query.image_ZHW.shape[1:])))
    scale = intensity_scale(query)
    return {z: edge_aligned(margin, scale.apply(query.image_ZHW[z]), radius) for z, margin in margins.items()}


def smoothed_margins(margins: Mapping[int, np.ndarray], deviation: float) -> dict[int, np.ndarray]:
    """Slice -> (H, W): means over the slices around it, weighted by a Gaussian of the distance in slices.

    Slices that were not predicted, and those further than three deviations, have no weight.

    >>> margins = {1: np.float32([[1.0]]), 2: np.float32([[-0.5]]), 9: np.float32([[4.0]])}
    >>> {z: round(float(value[0, 0]), 3) for z, value in smoothed_margins(margins, 1.0).items()}
    {1: 0.434, 2: 0.066, 9: 4.0}
    """
    if not margins:
        return {}
    slices_n = np.array(list(margins))
    distance_nn = np.abs(slices_n[:, None] - slices_n) / deviation
    weight_nn = np.where(distance_nn <= 3, np.exp(-(distance_nn**2) / 2), 0.0)
    weight_nn /= weight_nn.sum(axis=1, keepdims=True)
    margin_nHW = np.stack(list(margins.values()))
    mean_nHW = np.einsum("nm,mhw->nhw", weight_nn.astype(np.float32), margin_nHW, optimize=True)
    return dict(zip(margins, mean_nHW, strict=True))


def organ_mask(
    margins: Mapping[int, np.ndarray],
    parts: Mapping[int, int],
    support: SupportSet,
    components: Components,
    shape: tuple[int, ...],
) -> np.ndarray:
    """(Z, H, W) bool: where margins are above 0, cut to connected components slice by slice.

    margins: slice -> (H, W) of a `Predictor`, at most 0 where another organ wins. parts: slice -> part.
    """
    counts = [count_components(support.part_masks(part)) for part in range(PARTS)]
    mask_ZHW = np.zeros(shape, bool)
    for z, margin_HW in margins.items():
        if (margin_HW > 0).any():
            probability_HW = 1 / (1 + np.exp(-margin_HW.astype(np.float64)))
            mask_ZHW[z] = keep_components(margin_HW > 0, probability_HW, components, counts[parts[z]])
    return mask_ZHW


def label_map(
    margins: Mapping[int, Mapping[int, np.ndarray]],
    parts: Mapping[int, Mapping[int, int]],
    supports: Mapping[int, SupportSet],
    components: Components,
    shape: tuple[int, ...],
) -> np.ndarray:
    """(Z, H, W) uint8: for each pixel the organ with the largest margin, 0 where no margin is above 0.

    margins, parts: organ -> slice -> margin, part. Organs compete for pixels first; components are cut afterwards.
    """
    best_ZHW, winner_ZHW = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    for organ, slices in margins.items():
        for z, margin_HW in slices.items():
            wins_HW = margin_HW > best_ZHW[z]
            best_ZHW[z][wins_HW], winner_ZHW[z][wins_HW] = margin_HW[wins_HW], organ
    labels_ZHW = np.zeros(shape, np.uint8)
    for organ, support in supports.items():
        won = {z: np.where(winner_ZHW[z] == organ, best_ZHW[z], -1.0) for z in parts[organ]}
        labels_ZHW[organ_mask(won, parts[organ], support, components, shape)] = organ
    return labels_ZHW
