"""Co-segmentation without labels: what the images of a set have in common and the backbone attends to.

The patches of all images are clustered together by k-means; each image votes for the clusters that its CLS token
attends to; a cluster with enough votes is foreground (Amir et al., "Deep ViT features as dense visual descriptors",
2112.05814, section 4.2; with the voting of "Robustness of self-supervised ViT features in b-mode images"). Arrays in,
masks out, no network. One clustering decides here; `consensus.py` asks many.

I images, R x C the patch grid of one (grids may differ), D dimensions, H attention heads, K clusters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ....platform.core.errors import DataError
from ...common.shapes import shape_text
from ..config import CosegmentConfig
from .clustering import cluster_patches, elbow_reached
from .voting import cluster_saliency, count_votes, largest_taus, saliency_map

MOST_NAMES = 20
"""Most images that one warning names."""


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
    descriptors: Sequence[np.ndarray],
    attention: Sequence[np.ndarray],
    config: CosegmentConfig | None = None,
    names: Sequence[str] = (),
) -> Cosegmentation:
    """The masks of a set of images by one clustering; they do not depend on the images' order.

    Vote literal is the paper's formula as printed; for every other vote each image votes by tau, as vote mean.
    descriptors: (R, C, D) per image. attention: (H, R, C) per image, the CLS token's to each patch, at least 0.
    names: of the images, for warnings; none: their numbers from 1.
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
    found = Cosegmentation(clusters, masks, votes_K, foreground, saliency_IK, sse, ())
    names = names or [str(image + 1) for image in range(len(masks))]
    return replace(found, warnings=tuple(_warnings(found, saliency, needed, names, config)))


def listed(names: Sequence[str]) -> str:
    """Names of images in one line, the first MOST_NAMES of them."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def set_warnings(saliency: Sequence[np.ndarray], names: Sequence[str]) -> Iterator[str]:
    """What a set lacks before anything is clustered: attention that says something, and a second image."""
    if flat := [name for name, one_RC in zip(names, saliency, strict=True) if not np.ptp(one_RC)]:
        yield f"attention is the same everywhere in image {listed(flat)} and carries no information"
    if len(names) == 1:
        yield "1 image is no set: there is nothing to share, its saliency alone decides"


def _warnings(
    found: Cosegmentation,
    saliency: Sequence[np.ndarray],
    needed: int,
    names: Sequence[str],
    config: CosegmentConfig,
) -> Iterator[str]:
    """What a reader of the masks has to know."""
    sse, count, clusters = found.sse, len(names), len(found.votes)
    if config.clusters is None and not elbow_reached(sse, config):
        yield f"no elbow up to {len(sse)} clusters, where the last still helped; {len(sse)} are kept"
    yield from set_warnings(saliency, names)
    empty = [image for image, mask_RC in enumerate(found.masks) if not mask_RC.any()]
    which = f"{len(empty)} of {count} masks are empty ({listed([names[image] for image in empty])})"
    if config.vote == "literal":
        yield (
            f"vote literal gives a cluster 0 votes or 1, however many images there are; {needed} of {count} are "
            f"needed, so {len(found.foreground)} of {clusters} clusters are foreground; vote mean counts images"
            f"{'; ' + which if empty else ''}"
        )
    elif empty:
        yield f"{which}: {_cause(found, needed, config)}; {_cure(found, empty, needed)}"
    if len(found.foreground) == clusters:
        yield f"all {clusters} clusters are foreground: masks are whole images; raise tau or share"


def _cause(found: Cosegmentation, needed: int, config: CosegmentConfig) -> str:
    """Why masks are empty."""
    if found.foreground:
        return "none of their patches is in a foreground cluster"
    return (
        f"no cluster is foreground, the best has {found.votes.max()} votes of the {needed} needed, the largest mean "
        f"saliency is {np.nanmax(found.saliency):.3g} at tau {config.tau:g}"
    )


def _cure(found: Cosegmentation, empty: Sequence[int], needed: int) -> str:
    """The largest tau at which each of the empty masks would have a cluster, where there is one."""
    tau_K = largest_taus(found.saliency, needed)
    tau = min(tau_K[np.isfinite(found.saliency[image])].max() for image in empty)
    if not 0 < tau < math.inf:
        return "no tau gives each of them a cluster; lower cosegment.share, or take another attention_block"
    digit = 10.0 ** (math.floor(math.log10(tau)) - 2)
    return f"cosegment.tau {math.floor(tau / digit) * digit:.3g} gives each of them one, or lower cosegment.share"
