"""Masks of a set of frames by every row of a table: the method, TokenCut, the baselines and the oracles.

Two rows use the truth (`oracle`, `mean_mask`): they are bounds for comparison, not predictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ....platform.core.errors import ConfigError
from ..config import CosegmentConfig, ZeroshotConfig
from ..frames import Frame
from .baselines import mean_of_other_masks, oracle_clusters
from .cosegmentation import Cosegmentation, cosegment, listed
from .encoding import MAX_CUT_PATCHES, EncodedFrame
from .masks import refine

ROWS = ("cosegment", "tokencut", "oracle", "random", "random_oracle", "mean_mask", "everything")
"""Rows in the order of every table. random: the same method on random weights of the same architecture; oracle: the
clusters that the truth would choose; mean_mask: where at least half of the other frames' masks lie; everything: the
whole frame."""


@dataclass(frozen=True, slots=True, eq=False)
class SetMasks:
    """Masks of a set of frames by row, each (H, W) bool in the order of the frames.

    clusters, foreground: how many clusters co-segmentation found, and how many of them are foreground.
    """

    masks: Mapping[str, tuple[np.ndarray, ...]]
    clusters: int
    foreground: int
    warnings: tuple[str, ...] = ()

    def part(self, places: Sequence[int]) -> SetMasks:
        """The masks of some frames of the set."""
        masks = {row: tuple(row_masks[place] for place in places) for row, row_masks in self.masks.items()}
        return SetMasks(masks, self.clusters, self.foreground)

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
    cosegmentation = cosegment_frames(encoded, config, names)
    random_cosegmentation = cosegment_frames(random, config, names)
    truths = [frame.truth for frame in frames]
    masks = {
        "cosegment": _at_frame_size(cosegmentation.masks, encoded, config.cosegment),
        "tokencut": tuple(one.enlarge(one.cut.mask) for one in encoded if one.cut is not None),
        "oracle": _oracle_masks(cosegmentation, truths, encoded, config.cosegment),
        "random": _at_frame_size(random_cosegmentation.masks, random, config.cosegment),
        "random_oracle": _oracle_masks(random_cosegmentation, truths, random, config.cosegment),
        "mean_mask": mean_of_other_masks(truths),
        "everything": tuple(np.ones(truth.shape, bool) for truth in truths),
    }
    warnings = (
        *cosegmentation.warnings,
        *_refined_away(cosegmentation, masks["cosegment"], names),
        *_uncut(encoded, names, config),
    )
    if len(masks["tokencut"]) < len(frames):
        del masks["tokencut"]
        warnings += (f"TokenCut is left out: a frame has more than {MAX_CUT_PATCHES} patches",)
    return SetMasks(masks, len(cosegmentation.votes), len(cosegmentation.foreground), warnings)


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
        return SetMasks({"tokencut": tuple(cuts)}, 2, 1, tuple(_uncut(encoded, names, config)))
    cosegmentation = cosegment_frames(encoded, config, names)
    masks = _at_frame_size(cosegmentation.masks, encoded, config.cosegment)
    return SetMasks(
        {"cosegment": masks},
        len(cosegmentation.votes),
        len(cosegmentation.foreground),
        (*cosegmentation.warnings, *_refined_away(cosegmentation, masks, names)),
    )


def cosegment_frames(
    encoded: Sequence[EncodedFrame], config: ZeroshotConfig, names: Sequence[str]
) -> Cosegmentation:
    """Clusters and voted masks of a set, on the patch grid."""
    descriptors = [one.described(config.log_binning) for one in encoded]
    return cosegment(descriptors, [one.attention for one in encoded], config.cosegment, names)


def _refined_away(
    cosegmentation: Cosegmentation, masks: Sequence[np.ndarray], names: Sequence[str]
) -> Iterator[str]:
    """A warning that names the frames whose masks are empty since GrabCut moved their borders."""
    gone = [
        name
        for name, before_RC, mask_HW in zip(names, cosegmentation.masks, masks, strict=True)
        if before_RC.any() and not mask_HW.any()
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
    cosegmentation: Cosegmentation,
    truths: Sequence[np.ndarray],
    encoded: Sequence[EncodedFrame],
    config: CosegmentConfig,
) -> tuple[np.ndarray, ...]:
    chosen, _ = oracle_clusters(cosegmentation, truths, [one.covered for one in encoded])
    masks = [np.isin(cluster_RC, chosen) for cluster_RC in cosegmentation.clusters]
    return _at_frame_size(masks, encoded, config)


def _at_frame_size(
    masks: Sequence[np.ndarray], encoded: Sequence[EncodedFrame], config: CosegmentConfig
) -> tuple[np.ndarray, ...]:
    """Masks of patches at their frames' sizes, refined where the config says so."""
    return tuple(
        refine(one.enlarge(mask_RC), one.pixels, config) for mask_RC, one in zip(masks, encoded, strict=True)
    )
