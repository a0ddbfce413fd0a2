"""Foreground by the consensus of many votes, where one clustering with a fixed tau is brittle.

The patches of all images are clustered again and again: by the descriptors of several blocks, into few and many
clusters, from several random starts. In each clustering the saliency by the CLS attention of each of several blocks
names one cluster, the most salient of those that enough images have. A patch's agreement is the share of these votes
that name its cluster; what has more than half of the largest agreement is foreground. No saliency is compared with a
fixed number, and no single clustering or block decides. Where several kinds of saliency are candidates, that is taken
whose votes agree most.

I images, R x C the patch grid of one (grids may differ), D dimensions, K clusters of one clustering.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ....platform.core.errors import DataError
from ...common.shapes import shape_text
from ..config import CosegmentConfig
from .clustering import clusterings
from .cosegmentation import listed
from .voting import cluster_saliency, needed_images

COUNTS = (4, 6, 9, 13, 18)
"""Numbers of clusters, where `clusters` does not say it."""

CLEARLY = 1e-9
"""A cluster is salient where its mean saliency is above the images' by more than this."""


@dataclass(frozen=True, slots=True, eq=False)
class Consensus:
    """What the votes agree on in a set of images.

    agreement: per image (R, C) float64, the share of the votes that name each patch, 0..1. threshold: what is
    foreground lies above it. saliency: the kind that was taken. clusterings: (clusters per image (R, C), K) of the
    first start of each block and number of clusters. votes, named: how many there were, and how many named a cluster.
    clusters: of all clusterings together.
    """

    agreement: tuple[np.ndarray, ...]
    threshold: float
    saliency: str
    clusterings: tuple[tuple[tuple[np.ndarray, ...], int], ...]
    votes: int
    named: int
    clusters: int
    warnings: tuple[str, ...]

    @property
    def masks(self) -> tuple[np.ndarray, ...]:
        """Per image (R, C) bool, on the patch grid."""
        return tuple(one_RC > self.threshold for one_RC in self.agreement)

    def __repr__(self) -> str:
        return f"Consensus({len(self.agreement)} images, {self.named} of {self.votes} votes)"


def consensus(
    descriptors: Iterable[Sequence[np.ndarray]],
    saliency: Mapping[str, Sequence[Sequence[np.ndarray]]],
    config: CosegmentConfig | None = None,
    names: Sequence[str] = (),
) -> Consensus:
    """The agreement of all votes on a set of images; it does not depend on the images' order.

    descriptors: for each block (R, C, D) per image. saliency: for each kind that is a candidate, and each block whose
    attention votes, (R, C) per image; the kind is taken whose largest agreement is the largest, the first of equals.
    names: of the images, for warnings; none: their numbers from 1. Raises DataError for no image, shapes that
    contradict each other, and invalid descriptors; ConfigError for more clusters than patches.
    """
    config = config or CosegmentConfig()
    polls = {kind: _Poll(blocks, config) for kind, blocks in saliency.items()}
    if not polls:
        raise DataError("no kind of saliency; give at least one")
    first: list[tuple[tuple[np.ndarray, ...], int]] = []
    clusters = 0
    for block in descriptors:
        for poll in polls.values():
            _check_shapes(block, poll.named_by)
        for number, (labels, k) in enumerate(clusterings(block, COUNTS, config)):
            if number % config.tries == 0:
                first.append((labels, k))
            clusters += k
            for poll in polls.values():
                poll.vote(labels, k)
    kind, poll = max(polls.items(), key=lambda item: item[1].largest)  # the first of equals
    shares = tuple(total_RC / poll.votes for total_RC in poll.named_by)
    names = names or [str(image + 1) for image in range(len(shares))]
    warnings: tuple[str, ...] = ()
    if not poll.named:
        warnings = (
            f"{len(names)} of {len(names)} masks are empty ({listed(names)}): none of {poll.votes} votes found a "
            f"salient cluster that {poll.needed} images share; lower cosegment.share, or take another attention_block",
        )
    threshold = max(float(one_RC.max()) for one_RC in shares) / 2
    return Consensus(shares, threshold, kind, tuple(first), poll.votes, poll.named, clusters, warnings)


class _Poll:
    """The votes by one kind of saliency. named_by: per image (R, C), how many votes name each patch."""

    def __init__(self, saliency: Sequence[Sequence[np.ndarray]], config: CosegmentConfig) -> None:
        """saliency: as one kind of `consensus`. Raises DataError for no image."""
        if not saliency or not len(saliency[0]):
            raise DataError("no images to segment; give at least 2")
        self.saliency = saliency
        self.grounds = [_mean_of_images(block) for block in saliency]
        self.named_by = [np.zeros(np.shape(one_RC)) for one_RC in saliency[0]]
        self.needed = needed_images(len(self.named_by), config)
        self.votes = self.named = 0

    def vote(self, labels: Sequence[np.ndarray], k: int) -> None:
        """Each block's attention names one cluster of a clustering, or none."""
        for block_saliency, ground in zip(self.saliency, self.grounds, strict=True):
            self.votes += 1
            best = most_salient_cluster(cluster_saliency(labels, k, block_saliency), self.needed, ground)
            self.named += best is not None
            for total_RC, label_RC in zip(self.named_by, labels, strict=True):
                total_RC += label_RC == best

    @property
    def largest(self) -> float:
        """Most votes that name one patch."""
        return max(float(total_RC.max()) for total_RC in self.named_by)

    def __repr__(self) -> str:
        return f"_Poll({self.named} of {self.votes} votes)"


def most_salient_cluster(saliency_IK: np.ndarray, needed: int, ground: float) -> int | None:
    """The cluster of the largest mean saliency over the images that have it, among those that `needed` images have.

    saliency_IK: NaN where an image lacks a cluster. None where no such cluster is more salient than `ground`.

    >>> saliency_IK = np.array([[0.1, 0.5, np.nan], [0.2, 0.4, 0.9]])
    >>> most_salient_cluster(saliency_IK, needed=2, ground=0.3), most_salient_cluster(saliency_IK, 1, 0.3)
    (1, 2)
    >>> most_salient_cluster(saliency_IK, 2, ground=0.45) is None
    True
    """
    images_K = (~np.isnan(saliency_IK)).sum(axis=0)
    # Sorted, so that the order of the images does not move the last bits of a sum.
    mean_K = np.nansum(np.sort(saliency_IK, axis=0), axis=0) / np.maximum(images_K, 1)
    mean_K = np.where(images_K >= max(needed, 1), mean_K, -np.inf)
    best = int(mean_K.argmax())
    return best if mean_K[best] > ground + CLEARLY else None


def empty_warning(masks: Sequence[np.ndarray], found: Consensus, names: Sequence[str]) -> Iterator[str]:
    """A warning that names the images whose masks are empty, although others of the set have something."""
    empty = [name for name, mask in zip(names, masks, strict=True) if not mask.any()]
    if empty and found.named:
        yield (
            f"{len(empty)} of {len(names)} masks are empty ({listed(empty)}): nowhere in them more than "
            f"{found.threshold:.0%} of the {found.votes} votes agree; segment them apart from the others, or lower "
            "cosegment.share"
        )


def _mean_of_images(saliency: Sequence[np.ndarray]) -> float:
    """The mean saliency, each image counting alike. Sorted, so that their order does not move the last bits."""
    return float(np.sort([one_RC.mean() for one_RC in saliency]).mean())


def _check_shapes(block: Sequence[np.ndarray], grids: Sequence[np.ndarray]) -> None:
    """Raises DataError where descriptors and attention are not of the same patches."""
    if len(block) != len(grids):
        raise DataError(f"{len(block)} images have descriptors, {len(grids)} saliency; give both of each")
    for image, (one_RCD, grid_RC) in enumerate(zip(block, grids, strict=True)):
        if np.shape(one_RCD)[:2] != grid_RC.shape:
            raise DataError(
                f"image {image + 1} has descriptors of shape {np.shape(one_RCD)}, saliency on a grid of "
                f"{shape_text(grid_RC.shape)}; both must come from one pass"
            )
