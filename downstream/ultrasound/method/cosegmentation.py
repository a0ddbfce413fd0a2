"""Co-segmentation without labels: what the images of a set have in common and the backbone attends to.

The patches of all images are clustered together by k-means; each image votes for the clusters that its CLS token
attends to; a cluster with enough votes is foreground (Amir et al., "Deep ViT features as dense visual descriptors",
2112.05814, section 4.2; with the voting of "Robustness of self-supervised ViT features in b-mode images"). Arrays in,
masks out, no network.

I images, R x C the patch grid of one (grids may differ), D dimensions, H attention heads, K clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ....platform.core.errors import DataError
from ...common.shapes import shape_text
from ..config import CosegmentConfig
from .clustering import cluster_patches, elbow_reached
from .voting import cluster_saliency, count_votes, saliency_map


@dataclass(frozen=True, slots=True, eq=False)
class Cosegmentation:
    """Clusters and foreground of a set of images, and how the foreground was decided.

    clusters: per image (R, C) int64. masks: per image (R, C) bool, on the patch grid. votes: (K,) int64. foreground:
    numbers of the foreground clusters. saliency: (I, K) float64, mean over the patches of a cluster in an image, NaN
    where it has none. sse: as in `cluster_patches`. warnings: what a reader of the masks has to know, a sentence each.
    """

    clusters: tuple[np.ndarray, ...]
    masks: tuple[np.ndarray, ...]
    votes: np.ndarray
    foreground: tuple[int, ...]
    saliency: np.ndarray
    sse: tuple[float, ...]
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        chosen = f"{len(self.foreground)} of {len(self.votes)} clusters"
        return f"Cosegmentation({len(self.masks)} images, {chosen})"


def cosegment(
    descriptors: Sequence[np.ndarray], attention: Sequence[np.ndarray], config: CosegmentConfig | None = None
) -> Cosegmentation:
    """The masks of a set of images; they do not depend on the images' order.

    descriptors: (R, C, D) per image. attention: (H, R, C) per image, the CLS token's to each patch, at least 0.
    Raises DataError for no image, shapes that contradict each other, and invalid descriptors or attention;
    ConfigError for more clusters than patches or a head that does not exist.
    """
    config = config or CosegmentConfig()
    if len(descriptors) != len(attention):
        raise DataError(
            f"{len(descriptors)} images have descriptors, {len(attention)} attention; give both of each"
        )
    clusters, k, sse = cluster_patches(descriptors, config)
    for image, (cluster_RC, attention_HRC) in enumerate(zip(clusters, attention, strict=True)):
        if np.shape(attention_HRC)[1:] != cluster_RC.shape:
            raise DataError(
                f"image {image + 1} has descriptors on a grid of {shape_text(cluster_RC.shape)}, attention of shape "
                f"{np.shape(attention_HRC)}; both must come from one pass"
            )
    saliency = [saliency_map(attention_HRC, config) for attention_HRC in attention]
    saliency_IK = cluster_saliency(clusters, k, saliency)
    votes_K, needed = count_votes(saliency_IK, config)
    foreground = tuple(np.flatnonzero(votes_K >= needed).tolist())
    masks = tuple(np.isin(cluster_RC, foreground) for cluster_RC in clusters)
    warnings = tuple(_warnings(sse, saliency, saliency_IK, votes_K, needed, config))
    return Cosegmentation(clusters, masks, votes_K, foreground, saliency_IK, sse, warnings)


def _warnings(
    sse: Sequence[float],
    saliency: Sequence[np.ndarray],
    saliency_IK: np.ndarray,
    votes_K: np.ndarray,
    needed: int,
    config: CosegmentConfig,
) -> list[str]:
    """What a reader of the masks has to know."""
    count, warnings = len(saliency), []
    if config.clusters is None and not elbow_reached(sse, config):
        warnings.append(
            f"no elbow up to {len(sse)} clusters, where the last still helped; {len(sse)} are kept"
        )
    if flat := [str(image + 1) for image, one_RC in enumerate(saliency) if not np.ptp(one_RC)]:
        warnings.append(
            f"attention is the same everywhere in image {', '.join(flat)} and carries no information"
        )
    if count == 1:
        warnings.append("1 image is no set: there is nothing to share, its saliency alone decides")
    foreground = votes_K >= needed
    if config.vote == "literal":
        warnings.append(
            f"vote literal gives a cluster 0 votes or 1, however many images there are; {needed} of {count} are "
            f"needed, so {foreground.sum()} of {len(votes_K)} clusters are foreground; vote mean counts images"
        )
    elif not foreground.any():
        warnings.append(
            f"no cluster is foreground, all masks are empty: the best has {votes_K.max()} votes of the {needed} "
            f"needed, the largest mean saliency is {np.nanmax(saliency_IK):.3g} at tau {config.tau:g}; "
            "lower tau or share"
        )
    if foreground.all():
        warnings.append(
            f"all {len(votes_K)} clusters are foreground: masks are whole images; raise tau or share"
        )
    return warnings
