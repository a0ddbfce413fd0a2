"""Masks of a set of frames by every row of a table: the method, TokenCut, the baselines and the oracles.

Two rows use the truth (`oracle`, `mean_mask`): they are bounds for comparison, not predictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ....platform.core.errors import ConfigError
from ..config import CosegmentConfig, ZeroshotConfig
from ..frames import Frame
from .baselines import mean_of_other_masks, oracle_clusters
from .consensus import consensus, empty_warning
from .cosegmentation import cosegment, listed, set_warnings
from .encoding import MAX_CUT_PATCHES, EncodedFrame
from .masks import interpolate, refine
from .voting import bone_saliency, saliency_map

ROWS = ("cosegment", "mean_vote", "tokencut", "oracle", "random", "random_oracle", "mean_mask", "everything")
"""Rows in the order of every table. cosegment: by cosegment.vote; mean_vote: beside a consensus the seed paper's
method, on the last of its blocks; random: the method on random weights of the same architecture; oracle: the clusters
of one clustering that the truth would choose, of a consensus the best such clustering; mean_mask: where at least half
of the other frames' masks lie; everything: the whole frame."""


Saliency = Literal["minmax", "rank", "raw", "sum1", "bone"]

AUTO: tuple[Saliency, ...] = ("bone", "rank")
"""Kinds of saliency that are candidates for `auto`: what is attended to although dark, and what is attended to."""


@dataclass(frozen=True, slots=True, eq=False)
class SetMasks:
    """Masks of a set of frames by row, each (H, W) bool in the order of the frames.

    clusters, foreground: how many clusters co-segmentation found, and how many of them are foreground; for vote
    consensus the clusters of all clusterings, and how many times one was named. saliency: its kind, of the
    candidates the one that vote consensus took; None where none voted (TokenCut).
    """

    masks: Mapping[str, tuple[np.ndarray, ...]]
    clusters: int
    foreground: int
    saliency: str | None = None
    warnings: tuple[str, ...] = ()

    def part(self, places: Sequence[int]) -> SetMasks:
        """The masks of some frames of the set."""
        masks = {row: tuple(row_masks[place] for place in places) for row, row_masks in self.masks.items()}
        return SetMasks(masks, self.clusters, self.foreground, self.saliency)

    def __repr__(self) -> str:
        rows = ", ".join(self.masks)
        return f"SetMasks({rows}; {self.foreground} of {self.clusters} clusters are foreground)"


def compare_rows(
    frames: Sequence[Frame],
    encoded: Sequence[EncodedFrame],
    random: Sequence[EncodedFrame],
    config: ZeroshotConfig,
) -> SetMasks:
    """Every row's masks of a set of frames with truth. random: the same frames encoded with random weights."""
    names = [frame.key for frame in frames]
    found, by_chance = (_find(each, config, names) for each in (encoded, random))
    truths = [frame.truth for frame in frames]
    masks = {
        "cosegment": found.masks,
        **_mean_vote(encoded, config, names),
        "tokencut": tuple(one.enlarge(one.cut.mask) for one in encoded if one.cut is not None),
        "oracle": _oracle_masks(found, truths, encoded, config.cosegment),
        "random": by_chance.masks,
        "random_oracle": _oracle_masks(by_chance, truths, random, config.cosegment),
        "mean_mask": mean_of_other_masks(truths),
        "everything": tuple(np.ones(truth.shape, bool) for truth in truths),
    }
    warnings = (*found.warnings, *_uncut(encoded, names, config))
    if len(masks["tokencut"]) < len(frames):
        del masks["tokencut"]
        warnings += (f"TokenCut is left out: a frame has more than {MAX_CUT_PATCHES} patches",)
    return SetMasks(masks, found.clusters, found.foreground, found.saliency, warnings)


def segment_set(
    encoded: Sequence[EncodedFrame],
    names: Sequence[str],
    method: Literal["cosegment", "tokencut"],
    config: ZeroshotConfig,
) -> SetMasks:
    """One method's masks of a set of frames without truth; warnings name the frames.

    Raises ConfigError for too many patches for TokenCut.
    """
    if method == "tokencut":
        cuts = [one.enlarge(one.cut.mask) for one in encoded if one.cut is not None]
        if len(cuts) < len(encoded):
            raise ConfigError(
                f"TokenCut takes at most {MAX_CUT_PATCHES} patches a frame; choose a larger stride or a smaller side"
            )
        return SetMasks({"tokencut": tuple(cuts)}, 2, 1, None, tuple(_uncut(encoded, names, config)))
    found = _find(encoded, config, names)
    masks = {"cosegment": found.masks}
    return SetMasks(masks, found.clusters, found.foreground, found.saliency, found.warnings)


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """Masks (H, W) of a set of frames by co-segmentation. clusterings: (clusters per frame (R, C), their number)."""

    masks: tuple[np.ndarray, ...]
    clusterings: Sequence[tuple[Sequence[np.ndarray], int]]
    clusters: int
    foreground: int
    saliency: str
    warnings: tuple[str, ...]


def _find(encoded: Sequence[EncodedFrame], config: ZeroshotConfig, names: Sequence[str]) -> _Found:
    """Co-segmentation by the vote of the config."""
    if config.cosegment.vote == "consensus":
        return _find_by_consensus(encoded, config, names)
    descriptors = [one.described(config.log_binning) for one in encoded]
    found = cosegment(descriptors, [one.attention for one in encoded], config.cosegment, names)
    enlarged = [one.enlarge(mask_RC) for mask_RC, one in zip(found.masks, encoded, strict=True)]
    masks = _refined(enlarged, encoded, config.cosegment)
    clusters = len(found.votes)
    warnings = (*found.warnings, *_refined_away(enlarged, masks, names))
    saliency = config.cosegment.saliency or "minmax"
    return _Found(masks, [(found.clusters, clusters)], clusters, len(found.foreground), saliency, warnings)


def _find_by_consensus(
    encoded: Sequence[EncodedFrame], config: ZeroshotConfig, names: Sequence[str]
) -> _Found:
    """The agreement of patches is interpolated to pixels before it is compared with its threshold."""
    blocks = range(len(encoded[0].block_descriptors))
    descriptors = ([one.described(config.log_binning, block) for one in encoded] for block in blocks)
    wanted = config.cosegment.saliency
    kinds = AUTO if wanted is None or wanted == "auto" else (wanted,)
    saliency = {
        str(kind): list(zip(*(_saliency(one, kind, config.cosegment) for one in encoded), strict=True))
        for kind in kinds
    }
    found = consensus(descriptors, saliency, config.cosegment, names)
    enlarged = [
        interpolate(agreement_RC, one.pixels.shape[0], one.pixels.shape[1], one.covered) > found.threshold
        for agreement_RC, one in zip(found.agreement, encoded, strict=True)
    ]
    masks = _refined(enlarged, encoded, config.cosegment)
    attention = [saliency_map(one.attention, replace(config.cosegment, saliency="rank")) for one in encoded]
    warnings = (
        *set_warnings(attention, names),
        *found.warnings,
        *empty_warning(enlarged, found, names),
        *_refined_away(enlarged, masks, names),
    )
    return _Found(masks, found.clusterings, found.clusters, found.named, found.saliency, warnings)


def _saliency(one: EncodedFrame, kind: Saliency, config: CosegmentConfig) -> list[np.ndarray]:
    """(R, C) for each of the blocks whose attention votes."""
    if kind != "bone":
        config = replace(config, saliency=kind)
        return [saliency_map(attention_ARC, config) for attention_ARC in one.block_attention]
    brightness_RC = one.patch_shares(one.pixels / 255)
    return [bone_saliency(attention_ARC, brightness_RC, config) for attention_ARC in one.block_attention]


def _mean_vote(
    encoded: Sequence[EncodedFrame], config: ZeroshotConfig, names: Sequence[str]
) -> dict[str, tuple[np.ndarray, ...]]:
    """The row of the seed paper's method, beside a consensus."""
    if config.cosegment.vote != "consensus":
        return {}
    saliency = None if config.cosegment.saliency in ("bone", "auto") else config.cosegment.saliency
    config = replace(config, cosegment=replace(config.cosegment, vote="mean", saliency=saliency))
    return {"mean_vote": _find(encoded, config, names).masks}


def _refined(
    masks: Sequence[np.ndarray], encoded: Sequence[EncodedFrame], config: CosegmentConfig
) -> tuple[np.ndarray, ...]:
    """Masks (H, W), refined where the config says so."""
    return tuple(refine(mask_HW, one.pixels, config) for mask_HW, one in zip(masks, encoded, strict=True))


def _refined_away(
    before: Sequence[np.ndarray], masks: Sequence[np.ndarray], names: Sequence[str]
) -> Iterator[str]:
    """A warning that names the frames whose masks are empty since GrabCut moved their borders."""
    gone = [
        name
        for name, before_HW, mask_HW in zip(names, before, masks, strict=True)
        if before_HW.any() and not mask_HW.any()
    ]
    if gone:
        yield (
            f"GrabCut left nothing of {len(gone)} of {len(names)} masks ({listed(gone)}); lower cosegment.band, or "
            "set cosegment.refine to none"
        )


def _uncut(encoded: Sequence[EncodedFrame], names: Sequence[str], config: ZeroshotConfig) -> Iterator[str]:
    """A warning that names the frames in which TokenCut found nothing to cut."""
    uncut = {
        name: one.cut.uncut
        for name, one in zip(names, encoded, strict=True)
        if one.cut is not None and one.cut.uncut is not None
    }
    if not uncut:
        return
    low_I, median_I, high_I = np.array(list(uncut.values())).T
    which = f"TokenCut's mask is empty in {len(uncut)} of {len(names)} frames ({listed(list(uncut))})"
    if (high_I - low_I).max() < 1e-6:
        yield f"{which}: all patches are alike; look at the frames"
        return
    yield (
        f"{which}: cosines between their patches are {low_I.min():.4g} to {high_I.max():.4g}, those of a frame all on "
        f"one side of tokencut.tau {config.tokencut.tau:g}; their median is {np.median(median_I):.4g}, which cuts"
    )


def _oracle_masks(
    found: _Found,
    truths: Sequence[np.ndarray],
    encoded: Sequence[EncodedFrame],
    config: CosegmentConfig,
) -> tuple[np.ndarray, ...]:
    """The best clusters of the best clustering, refined where the config says so."""
    covered = [one.covered for one in encoded]
    chosen = [oracle_clusters(clusters, k, truths, covered) for clusters, k in found.clusterings]
    best = int(np.argmax([dice for _, dice in chosen]))
    masks = [
        one.enlarge(np.isin(cluster_RC, chosen[best][0]))
        for cluster_RC, one in zip(found.clusterings[best][0], encoded, strict=True)
    ]
    return _refined(masks, encoded, config)
