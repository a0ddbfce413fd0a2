"""Where an organ lies along a scan without labels: the scan's slices are matched with those of the support.

Two scans of different stretches of the body are laid on one another by shift and stretch along the body, so that
slices that lie on one another look alike.
"""

# Z slices of a scan, n descriptors of the query, m of the support, D their length; h, w grid.

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ...volumes.volume import Volume
from .choice import SupportChosen
from .grid import grid_mask
from .predictors import EncoderChoice
from .protocol import organ_span, parts_from_supports, parts_of_span
from .slices import SliceFeatures, body_mask
from .support import SupportSet

POOLED = 4
"""A slice is described by the mean features of this many times as many parts of its body's box."""

MAX_SLICES = 64
"""Slices of a scan that are described, at most, spread evenly."""

STRETCHES = (0.8, 0.9, 1.0, 1.1, 1.25)
"""How much larger the support's patient may be along the body than the query's."""

LEAST_OVERLAP = 0.5
"""Scans are laid on one another so that at least this share of the shorter one lies on the other."""


KEPT = 8
"""Scans whose descriptors are kept."""


class Aligner:
    """Finds an organ's slices in scans without labels, by the features that segment it."""

    def __init__(self, encoder_for: EncoderChoice) -> None:
        self.encoder_for = encoder_for.middle if isinstance(encoder_for, SupportChosen) else encoder_for
        self._last: list[tuple[SliceFeatures, Volume, tuple[np.ndarray, int]]] = []

    def parts(self, support: SupportSet, query: Volume) -> dict[int, int]:
        """Slice of the query -> third of the organ; slices beyond the organ are left out.

        Where there are several supports, the mean of what they say.
        """
        features = self.encoder_for(support)
        query_nD, step = self._described(features, query)
        slices = len(query.image_ZHW)
        spans = []
        for volume, mask_ZHW in zip(support.volumes, support.organ_masks(), strict=True):
            support_mD, its_step = self._described(features, volume)
            ratio = _spacing_ratio(query, volume) * step / its_step
            slope, start = alignment(query_nD, support_mD, ratio)
            # Descriptors -> slices.
            slope, start = slope * its_step / step, start * its_step
            edges = organ_span(mask_ZHW)
            spans.append([((edge - 0.5 - start) / slope + 0.5) / slices for edge in edges])
        first, last = np.mean(spans, axis=0)
        return parts_of_span(slices, float(first), float(last), reach=0.0)

    def _described(self, features: SliceFeatures, volume: Volume) -> tuple[np.ndarray, int]:
        """`slice_descriptors`; those of the last scans are kept."""
        for its_features, its_volume, described in self._last:
            if its_features is features and its_volume is volume:
                return described
        described = slice_descriptors(features, volume)
        self._last = [*self._last[1 - KEPT :], (features, volume, described)]
        return described

    def __repr__(self) -> str:
        return f"Aligner({len(self._last)} scans described)"


def volume_parts(aligner: Aligner | None, support: SupportSet, query: Volume, reach: float) -> dict[int, int]:
    """`Aligner.parts`; without one the guess of `parts_from_supports`, which needs a reach."""
    if aligner is None:
        return parts_from_supports(len(query.image_ZHW), support.organ_masks(), reach)
    return aligner.parts(support, query)


def slice_descriptors(features: SliceFeatures, volume: Volume) -> tuple[np.ndarray, int]:
    """(n, D) float32 of unit length, and the step from slice to slice described, the first of which is slice 0.

    Means of the features in 4 x 4 parts of the body's bounding box, less their mean over the scan: what all slices of
    a patient share does not tell them apart.
    """
    step = -(-len(volume.image_ZHW) // MAX_SLICES)
    rows = []
    for z in range(0, len(volume.image_ZHW), step):
        [features_Chw] = features(volume, [z])
        h, w = features_Chw.shape[1:]
        body_hw = grid_mask(torch.from_numpy(body_mask(volume.image_ZHW[z])), h, w) > 0.5
        y, x = (torch.nonzero(body_hw.any(dim=axis)).flatten() for axis in (1, 0))
        if len(y):
            features_Chw = features_Chw[:, y[0] : y[-1] + 1, x[0] : x[-1] + 1]
        rows.append(F.adaptive_avg_pool2d(features_Chw, POOLED).flatten().numpy())
    rows_nD = np.stack(rows)
    rows_nD = rows_nD - rows_nD.mean(axis=0)
    return rows_nD / np.linalg.norm(rows_nD, axis=1, keepdims=True).clip(1e-6), step


def alignment(query_nD: np.ndarray, support_mD: np.ndarray, ratio: float) -> tuple[float, float]:
    """(slope, start): place i of the query lies on place slope * i + start of the support.

    ratio: slope if both patients were equally large. The mean cosine of what lies on one another is the largest that
    `STRETCHES` and starts half a place apart allow, with an overlap of `LEAST_OVERLAP`; the first of equals.
    """
    n, m = len(query_nD), len(support_mD)
    cosine_nm = query_nD @ support_mD.T
    place_n = np.arange(n)
    best, found = -np.inf, (ratio, 0.0)
    for stretch in STRETCHES:
        slope = stretch * ratio
        for start in np.arange(-np.ceil(slope * n), m, 0.5):
            on_n = slope * place_n + start
            within_n = (on_n > -0.5) & (on_n < m - 0.5)
            # Both scans' shares of the overlap, in places of the query.
            if np.count_nonzero(within_n) < LEAST_OVERLAP * min(n, m / slope):
                continue
            its_m = np.clip(np.rint(on_n[within_n]).astype(int), 0, m - 1)
            mean = float(cosine_nm[place_n[within_n], its_m].mean())
            if mean > best:
                best, found = mean, (slope, float(start))
    return found


def _spacing_ratio(query: Volume, support: Volume) -> float:
    """Slices of the support for each slice of the query; where a spacing is unknown, both scans are equally long."""
    if query.in_mm and support.in_mm:
        return query.spacing[0] / support.spacing[0]
    return len(support.image_ZHW) / len(query.image_ZHW)
