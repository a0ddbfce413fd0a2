"""Predictors: from a support set and slices of a query to a score margin for every pixel.

Prototypes over any features are one; the baseline that copies the support's mask and the oracle (the ground truth at
the resolution of the features' grid) are others. `masks` turns margins into masks, the same way for all of them.
Sources: arXiv 2403.03273, 2007.09886.
"""

# n query slices, N support slices, C channels, H, W pixels, h, w cells of the features' grid.

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TypeAlias

import torch
from torch import Tensor

from ...volumes.volume import Volume
from .config import Compat, PrototypeConfig
from .grid import copied_mask, grid_mask, upsample
from .prototypes import PrototypeSets, prototype_scores, prototype_sets
from .slices import SliceFeatures
from .support import SupportSet, organ_truth

Predictor: TypeAlias = Callable[[SupportSet, int, Volume, Sequence[int]], Tensor]
"""(support set, part, query, its slices) -> margins (n, H, W) float32: the organ's score less the background's.

Above 0 is organ. Test-time training happens within a call and leaves no trace.
"""

EncoderChoice: TypeAlias = Callable[[SupportSet], SliceFeatures]
"""Support set -> the features for it, such as those of the encoder of its fold."""


def prototype_predictor(features: SliceFeatures, config: PrototypeConfig) -> Predictor:
    """Adaptive local prototypes over one source of features."""
    return encoder_predictor(lambda _: features, config)


def encoder_predictor(encoder_for: EncoderChoice, config: PrototypeConfig) -> Predictor:
    """Adaptive local prototypes over the features that `encoder_for` chooses for each support set."""

    @cache  # grows with the support sets, a few hundred kilobytes each
    def support_prototypes(support: SupportSet, part: int) -> PrototypeSets:
        features = encoder_for(support)
        pairs = zip(support.volumes, support.slices, strict=True)
        supports_NChw = torch.cat([features(volume, [slices[part]]) for volume, slices in pairs])
        masks_NHW = torch.from_numpy(support.part_masks(part))
        h, w = supports_NChw.shape[2:]
        grid_Nhw = grid_mask(masks_NHW, h, w, config.compat)
        return prototype_sets(supports_NChw, grid_Nhw, config)

    def predictor(support: SupportSet, part: int, query: Volume, slices: Sequence[int]) -> Tensor:
        features_nChw = encoder_for(support)(query, slices)
        background_nhw, foreground_nhw = prototype_scores(features_nChw, support_prototypes(support, part))
        return upsample(foreground_nhw - background_nhw, *query.image_ZHW.shape[1:])

    return predictor


def copy_predictor(support: SupportSet, part: int, query: Volume, slices: Sequence[int]) -> Tensor:
    """Baseline: the support's mask where it lies, whatever the query shows."""
    mask_HW = copied_mask(torch.from_numpy(support.part_masks(part)), *query.image_ZHW.shape[1:])
    return (mask_HW.float() * 2 - 1).expand(len(slices), -1, -1)


def oracle_predictor(encoder_for: EncoderChoice, compat: Compat) -> Predictor:
    """Upper bound: the query's own ground truth, resampled to the grid of the features and back."""

    def predictor(support: SupportSet, part: int, query: Volume, slices: Sequence[int]) -> Tensor:
        h, w = encoder_for(support)(query, [slices[0]]).shape[2:]
        truth_nHW = torch.from_numpy(organ_truth(query, support.organ, slices))
        return upsample(2 * grid_mask(truth_nHW, h, w, compat) - 1, *query.image_ZHW.shape[1:])

    return predictor


# Features computed once --------------------------------------------------------------------------


class CachedFeatures:
    """Features that are computed once for each slice, and kept for the last `max_scans` scans."""

    def __init__(self, features: SliceFeatures, max_scans: int) -> None:
        self.features = features
        self.max_scans = max_scans
        self._cache: OrderedDict[Volume, dict[int, Tensor]] = OrderedDict()

    def __call__(self, volume: Volume, slices: Sequence[int]) -> Tensor:
        cached = self._cache.setdefault(volume, {})
        self._cache.move_to_end(volume)
        while len(self._cache) > self.max_scans:
            self._cache.popitem(last=False)
        missing = sorted(set(slices) - cached.keys())
        if missing:
            cached.update(zip(missing, self.features(volume, missing), strict=True))
        return torch.stack([cached[z] for z in slices])


class FoldEncoders:
    """The encoder trained for each fold and organ, with cached features: an `EncoderChoice`.

    encoders: (fold, class number) -> features, one object for organs that share an encoder. max_scans: as in
    `CachedFeatures`; the features of a fold are dropped when the next fold begins.
    """

    def __init__(self, encoders: Mapping[tuple[int, int], SliceFeatures], max_scans: int) -> None:
        self.encoders = encoders
        self.max_scans = max_scans
        self._fold = -1
        self._cached: dict[SliceFeatures, CachedFeatures] = {}

    def __call__(self, support: SupportSet) -> CachedFeatures:
        if support.fold != self._fold:
            self._fold = support.fold
            self._cached.clear()
        encoder = self.encoders[support.fold, support.organ]
        return self._cached.setdefault(encoder, CachedFeatures(encoder, self.max_scans))
