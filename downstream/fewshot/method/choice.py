"""Which features segment an organ: its support, labeled on every slice, tells.

Some labeled slices of the support are segmented from others, with every candidate: blocks of the network, weight of the
place in the body, factor of cosines. What does best there segments the queries. No query takes part.
"""

# n slices, B blocks, C channels of a block, D of all blocks, h, w grid, P positions, K prototypes, X sides.

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import numpy as np
import torch
from torch import Tensor

from ...volumes.volume import Volume
from .config import PrototypeConfig, SliceConfig, TaskConfig
from .grid import grid_mask, upsample
from .predictors import CachedFeatures, EncoderChoice, Predictor, encoder_predictor
from .protocol import PARTS, dice, parts_from_truth
from .prototypes import pooled, prototype_sets
from .slices import SliceFeatures, cached_coordinates, with_coordinates
from .support import SupportSet, organ_truth
from .token_features import LayerTokens

LAYER_SETS = ((2 / 3, 5 / 6), (2 / 3,), (1 / 2, 2 / 3, 5 / 6), (5 / 6,), (1 / 2,), (1.0,))
"""Blocks that are candidates, as shares of the network's depth; those of a set are concatenated."""

COORDINATE_FACTORS = (0.7, 1.0, 0.5)
"""Candidates for the weight of coordinates, as multiples of `slices.coordinates`."""

TAU_FACTORS = (1.0, 0.5)
"""Candidates for the factor of cosines, as multiples of `prototypes.tau`."""

SHIFTS = ((0.15, 0.0), (-0.15, 0.0), (0.0, 0.15), (0.0, -0.15))
"""Rows and columns, in half sizes of the body, by which an organ may lie elsewhere in another patient."""

CLEARLY = 0.02
"""Dice by which a candidate must beat the most plausible one to be chosen: one support says little of smaller leads."""

MAX_SLICES = 12
"""Slices of a support that are segmented from others, at most, spread evenly."""


@dataclass(frozen=True, slots=True)
class FeatureChoice:
    """Blocks (0-based), weight of coordinates and factor of cosines; dice: mean over the support's own slices."""

    layers: tuple[int, ...]
    coordinates: float
    tau: float
    dice: float = math.nan

    def __str__(self) -> str:
        layers = " ".join(map(str, self.layers))
        return f"layers {layers}, coordinates {self.coordinates:.3g}, tau {self.tau:.3g}"


def layer_sets(depth: int) -> tuple[tuple[int, ...], ...]:
    """The candidate sets of blocks of a network with `depth` blocks.

    >>> layer_sets(12)
    ((7, 9), (7,), (5, 7, 9), (9,), (5,), (11,))
    """
    sets = (tuple(max(round(share * depth), 1) - 1 for share in shares) for shares in LAYER_SETS)
    return tuple(dict.fromkeys(tuple(dict.fromkeys(one)) for one in sets))


def candidate_blocks(depth: int) -> tuple[int, ...]:
    """All blocks that occur in `layer_sets`, the last one among them.

    >>> candidate_blocks(12)
    (5, 7, 9, 11)
    """
    return tuple(sorted({block for one in layer_sets(depth) for block in one}))


class SupportChosen:
    """Features that every organ's support chooses: an `EncoderChoice`.

    tokens: of the candidate blocks, concatenated in the order of `candidate_blocks`, without coordinates, cached.
    slices: weight of coordinates, the largest candidate (0: none). prototypes: the largest candidate for tau.
    """

    def __init__(
        self, tokens: SliceFeatures, depth: int, slices: SliceConfig, prototypes: PrototypeConfig
    ) -> None:
        self.tokens, self.depth, self.slices = tokens, depth, slices
        self.prototypes = replace(prototypes, compat="ours")
        self._middle = self.features(layer_sets(depth)[1 % len(layer_sets(depth))], 0.0)
        self._choices: dict[tuple[int, tuple[Volume, ...]], FeatureChoice] = {}
        self._chosen: dict[tuple[tuple[int, ...], float], SliceFeatures] = {}

    def __call__(self, support: SupportSet) -> SliceFeatures:
        """The features chosen for a support set: the same object for the same choice."""
        choice = self.choice(support)
        key = (choice.layers, choice.coordinates)
        if key not in self._chosen:
            self._chosen[key] = self.features(*key)
        return self._chosen[key]

    def choice(self, support: SupportSet) -> FeatureChoice:
        """The candidate with the best mean Dice on the support's own slices.

        The most plausible one, unless it is worse by more than CLEARLY.
        """
        key = (support.organ, support.volumes)
        if key not in self._choices:
            scored = candidate_scores(self, support)
            best, first = max(scored, key=lambda candidate: scored[candidate]), next(iter(scored))
            best = best if scored[best] > scored[first] + CLEARLY else first
            self._choices[key] = replace(best, dice=scored[best])
        return self._choices[key]

    def last(self, _support: SupportSet) -> SliceFeatures:
        """The last block with the configured weight of coordinates: what the released modes take."""
        return self.features((self.depth - 1,), self.slices.coordinates)

    def middle(self, _support: SupportSet) -> SliceFeatures:
        """The block at two thirds of the depth, without coordinates: always the same object."""
        return self._middle

    def features(self, layers: Sequence[int], coordinates: float) -> SliceFeatures:
        """The features of some of the candidate blocks, as `TokenFeatures` gives them."""
        blocks = candidate_blocks(self.depth)
        places = [blocks.index(layer) for layer in layers]

        def features(volume: Volume, slices: Sequence[int]) -> Tensor:
            tokens_nBChw = self.tokens(volume, slices).unflatten(1, (len(blocks), -1))
            return with_coordinates(tokens_nBChw[:, places].flatten(1, 2), volume, slices, coordinates)

        return features

    def candidates(self) -> list[FeatureChoice]:
        """All candidates, the most plausible first."""
        weights = dict.fromkeys(factor * self.slices.coordinates for factor in COORDINATE_FACTORS)
        taus = [factor * self.prototypes.tau for factor in TAU_FACTORS]
        return [
            FeatureChoice(layers, weight, tau)
            for layers, weight, tau in product(layer_sets(self.depth), weights, taus)
        ]

    def __repr__(self) -> str:
        return f"SupportChosen({len(self.candidates())} candidates, {len(self._choices)} chosen)"


def source_choice(features: SliceFeatures, config: TaskConfig, max_scans: int) -> EncoderChoice:
    """What segments an organ: features that its support chooses, if they are of several blocks, else `features`.

    Computed once for each slice, kept for the last `max_scans` scans.
    """
    cached = CachedFeatures(features, max_scans)
    if isinstance(features, LayerTokens):
        return SupportChosen(cached, features.depth, config.slices, config.prototypes)
    return lambda _: cached


def mode_predictor(encoder_for: EncoderChoice, config: PrototypeConfig) -> Predictor:
    """Adaptive local prototypes; in the released modes over the last block, where a support could choose."""
    if not isinstance(encoder_for, SupportChosen):
        return encoder_predictor(encoder_for, config)
    if config.compat != "ours":
        return encoder_predictor(encoder_for.last, config)
    return chosen_predictor(encoder_for)


def chosen_predictor(chosen: SupportChosen) -> Predictor:
    """Adaptive local prototypes over the features, and with the factor of cosines, that each support chooses."""

    @cache
    def predictor_with(tau: float) -> Predictor:
        return encoder_predictor(chosen, replace(chosen.prototypes, tau=tau))

    def predictor(support: SupportSet, part: int, query: Volume, slices: Sequence[int]) -> Tensor:
        return predictor_with(chosen.choice(support).tau)(support, part, query, slices)

    return predictor


# The support segments itself ---------------------------------------------------------------------


def candidate_scores(chosen: SupportChosen, support: SupportSet) -> dict[FeatureChoice, float]:
    """Candidate -> Dice, the mean over supports of two tasks that stand for another patient.

    In the first, slices of each third are segmented from the third's support slice, with their place shifted by each of
    `SHIFTS`; in the second, the outer thirds from the middle's support slice, as they are.
    """
    candidates = chosen.candidates()
    scores = {candidate: 0.0 for candidate in candidates}
    for volume, slices in zip(support.volumes, support.slices, strict=True):
        truth_ZHW = organ_truth(volume, support.organ)
        parts = parts_from_truth(truth_ZHW)
        same = {z: slices[part] for z, part in parts.items() if z not in slices}
        outer = {z: slices[PARTS // 2] for z, part in parts.items() if part != PARTS // 2}
        fallback = {z: slices[part] for z, part in parts.items()}
        for plan, shifts in ((same or fallback, SHIFTS), (outer or fallback, ((0.0, 0.0),))):
            task = _Task(chosen, volume, truth_ZHW, spread(plan), shifts)
            for candidate in candidates:
                scores[candidate] += task.dice(candidate) / (2 * len(support.volumes))
    return scores


def spread(plan: Mapping[int, int]) -> dict[int, int]:
    """At most `MAX_SLICES` of a plan's slices, spread evenly.

    >>> list(spread({z: 0 for z in range(24)}))
    [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23]
    """
    slices = list(plan)
    if len(slices) <= MAX_SLICES:
        return dict(plan)
    places = ((2 * n + 1) * len(slices) // (2 * MAX_SLICES) for n in range(MAX_SLICES))
    return {slices[place]: plan[slices[place]] for place in places}


class _Task:
    """Slices of a labeled scan to be segmented from others of its slices (plan: slice -> its support slice).

    Cosines of concatenated features are sums over blocks, so every block's products are computed once for all
    candidates.
    """

    def __init__(
        self,
        chosen: SupportChosen,
        volume: Volume,
        truth_ZHW: np.ndarray,
        plan: Mapping[int, int],
        shifts: Sequence[tuple[float, float]],
    ) -> None:
        self.blocks = candidate_blocks(chosen.depth)
        self.config = chosen.prototypes
        self.groups: list[_Group] = []
        for source in dict.fromkeys(plan.values()):
            slices = [z for z, its_source in plan.items() if its_source == source]
            self.groups.append(_group(chosen, volume, truth_ZHW, source, slices, shifts))
        order = [z for group in self.groups for z in group.slices]
        self.truth_nHW = truth_ZHW[order]
        self.shifts = len(shifts)

    def dice(self, candidate: FeatureChoice) -> float:
        """Mean Dice over the shifts, pooled over the slices."""
        margins = [group.margins(candidate, self.blocks) for group in self.groups]
        values = []
        for number in range(self.shifts):
            margin_nhw = torch.cat([margin[number] for margin in margins])
            mask_nHW = upsample(margin_nhw, *self.truth_nHW.shape[1:]).numpy() > 0
            values.append(dice(mask_nHW, self.truth_nHW))
        return float(np.mean(values))


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Slices with the same support slice. products: (B, n P, K); places: the same of coordinates, by shift.

    lengths: squared lengths by block, of the queries (B, n, P), prototypes (B, K) and coordinates (K,); scale: mean
    squared length by block, of the queries' slices (B, n) and of the support's slice (B,). members: (K, 2), background
    and foreground.
    """

    slices: list[int]
    grid: tuple[int, int]
    products: Tensor
    places: list[Tensor]
    lengths: tuple[Tensor, Tensor, Tensor]
    scale: tuple[Tensor, Tensor]
    members: Tensor

    def margins(self, candidate: FeatureChoice, blocks: Sequence[int]) -> list[Tensor]:
        """(n, h, w) for each shift: what `prototype_scores` gives, foreground less background."""
        at = [blocks.index(layer) for layer in candidate.layers]
        weight = candidate.coordinates**2
        query_Bn, support_B = self.scale
        query_n, support = query_Bn[at].sum(dim=0), support_B[at].sum()
        query_BnP, prototype_BK, place_K = self.lengths
        query_nP = (query_BnP[at].sum(dim=0) / query_n[:, None] + weight).sqrt()
        prototype_K = (prototype_BK[at].sum(dim=0) / support + weight * place_K).sqrt()
        product_nPK = self.products[at].sum(dim=0).unflatten(0, query_nP.shape)
        product_nPK /= (query_n * support).sqrt()[:, None, None]
        margins = []
        for place_PK in self.places:
            cosine_nPK = product_nPK + weight * place_PK.unflatten(0, query_nP.shape)
            logit_nPK = cosine_nPK.div_(query_nP[..., None]).div_(prototype_K).mul_(candidate.tau)
            weight_nPK = (logit_nPK - candidate.tau).exp_()
            scores_nPX = (logit_nPK.mul_(weight_nPK) @ self.members) / (weight_nPK @ self.members)
            margins.append((scores_nPX[..., 1] - scores_nPX[..., 0]).unflatten(1, self.grid))
        return margins


def _group(
    chosen: SupportChosen,
    volume: Volume,
    truth_ZHW: np.ndarray,
    source: int,
    slices: list[int],
    shifts: Sequence[tuple[float, float]],
) -> _Group:
    blocks = len(candidate_blocks(chosen.depth))
    support_1Dhw = chosen.tokens(volume, [source])
    grid = (support_1Dhw.shape[2], support_1Dhw.shape[3])
    place_14hw = cached_coordinates(volume, [source], *grid)
    mask_1hw = grid_mask(torch.from_numpy(truth_ZHW[[source]]), *grid)
    # Which cells are prototypes depends on the mask alone.
    sets = prototype_sets(place_14hw, mask_1hw, chosen.prototypes)
    members_XK = torch.cat([sets.members, sets.present], dim=1)
    members_XK = torch.cat([members_XK, torch.zeros_like(members_XK[:, :1])], dim=1)
    # The last two prototypes: the background's mean and the organ's.
    members_XK[0, -2], members_XK[0, -1] = sets.present[0, 0], False
    members_XK[1, -2], members_XK[1, -1] = False, sets.present[1, 0]
    prototypes_DK = _prototypes(support_1Dhw, mask_1hw, chosen.prototypes)
    prototypes_BCK = prototypes_DK.unflatten(0, (blocks, -1))
    places_4K = _prototypes(place_14hw, mask_1hw, chosen.prototypes)
    queries_nBCP = chosen.tokens(volume, slices).flatten(2).unflatten(1, (blocks, -1))
    queries_BnPC = queries_nBCP.permute(1, 0, 3, 2)
    position_nP4 = cached_coordinates(volume, slices, *grid).flatten(2).mT
    return _Group(
        slices=slices,
        grid=grid,
        products=queries_BnPC.flatten(1, 2) @ prototypes_BCK,
        places=[shifted(position_nP4, *shift).flatten(0, 1) @ places_4K for shift in shifts],
        lengths=(
            queries_BnPC.square().sum(dim=3),
            prototypes_BCK.square().sum(dim=1),
            places_4K.square().sum(dim=0),
        ),
        scale=(
            queries_BnPC.square().sum(dim=3).mean(dim=2),
            support_1Dhw.square().unflatten(1, (blocks, -1)).sum(dim=2).mean(dim=(0, 2, 3)),
        ),
        members=members_XK.T.to(prototypes_DK),
    )


def _prototypes(support_1Chw: Tensor, mask_1hw: Tensor, config: PrototypeConfig) -> Tensor:
    """(C, K): pooled cells, the mean of the background, the mean of the organ; not normalized."""
    cells_CK = pooled(support_1Chw, config.window, config)[0].flatten(1)
    weight_P2 = torch.stack([1 - mask_1hw.flatten(), mask_1hw.flatten()], dim=1)
    mean_C2 = support_1Chw[0].flatten(1) @ (weight_P2 / weight_P2.sum(dim=0).clamp(min=1e-5))
    return torch.cat([cells_CK, mean_C2], dim=1)


def shifted(position_P4: Tensor, rows: float, columns: float) -> Tensor:
    """Coordinates (…, 4) of `body_coordinates`, moved by so many half sizes of the body."""
    cos_y, sin_y, cos_x, sin_x = position_P4.unbind(dim=-1)
    y, x = rows * math.pi / 2, columns * math.pi / 2
    return torch.stack(
        [
            cos_y * math.cos(y) - sin_y * math.sin(y),
            sin_y * math.cos(y) + cos_y * math.sin(y),
            cos_x * math.cos(x) - sin_x * math.sin(x),
            sin_x * math.cos(x) + cos_x * math.sin(x),
        ],
        dim=-1,
    )
