"""What do the images of a set have in common that the backbone looks at? Co-segmentation without a label.

The patches of all images are clustered together by k-means; each image votes for the clusters that its CLS token
attends to; what enough images vote for is foreground (Amir et al., "Deep ViT features as dense visual descriptors",
2112.05814, section 4.2; with the voting of "Robustness of self-supervised ViT features in b-mode images"). Arrays in,
masks out, no network. Beside it stand what every table of Dice needs: floors, and an oracle that knows the truth.

I images, R x C the patch grid of one (grids may differ), N patches of all, D dimensions, H attention heads, K clusters,
M x W the pixels of an image.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...platform.core.errors import ConfigError, DataError
from ...platform.measure.neighbors import unit

ITERATIONS = 300
"""Most rounds of one k-means, as Amir et al.; faiss stops where no patch moves any more, mostly below 50."""

EXACT = 16
"""Most clusters whose every subset the oracle tries: 65,536 of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CosegmentConfig:
    """How patches are clustered, and which clusters are foreground."""

    clusters: int | None = None
    """Clusters for the patches of all images together; none: the elbow chooses."""
    elbow: float = 0.975
    """Clusters are added until one more leaves over this share of the sum of squared distances."""
    most: int = 15
    """Most clusters that the elbow may choose."""
    every: int = 1
    """k-means learns from every so-manieth patch of each image; all are then assigned."""
    tries: int = 5
    """Random starts of each k-means; the tightest is kept."""
    saliency: Literal["minmax", "rank", "raw", "sum1"] = "minmax"
    """CLS attention of an image: stretched to 0..1, its rank among the image's patches from 0 to 1, as it is, or
    divided by its sum over the patches."""
    away: bool = False
    """Salient is what the CLS token looks away from, as a backbone pretrained on b-mode does from bone and shadow."""
    heads: tuple[int, ...] = ()
    """Heads whose attention is averaged, counted from 0; empty: all. Amir et al. take 0 2 4 5 of DINO's ViT-S/8."""
    tau: float = 0.2
    """An image votes for a cluster whose mean saliency in it is at least this. Amir et al.: 0.065."""
    share: float = 0.65
    """Share of the images, rounded up, whose votes make a cluster foreground. Amir et al.: 0.75."""
    vote: Literal["mean", "literal"] = "mean"
    """literal: the seed paper's formula as printed, which sums over the images before it compares with tau."""
    refine: Literal["none", "grabcut"] = "none"
    """What moves a mask's border to the picture's edges at last."""
    band: int = 3
    """Pixels on either side of a mask's border that GrabCut decides about."""
    seed: int = 0
    """Of k-means and GrabCut."""

    def __post_init__(self) -> None:
        least = {"clusters": 1, "most": 1, "every": 1, "tries": 1, "band": 1, "seed": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ConfigError(f"cosegment.{name} is {value}; ask for at least {bound}")
        for name in ("elbow", "share"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(
                    f"cosegment.{name} is {getattr(self, name)}; a share is above 0 and at most 1"
                )
        if not 0 < self.tau < math.inf:
            raise ConfigError(f"cosegment.tau is {self.tau}; a saliency to vote at is a number above 0")
        if any(head < 0 for head in self.heads) or len(set(self.heads)) < len(self.heads):
            raise ConfigError(f"cosegment.heads is {self.heads}; count heads from 0, each once")


@dataclass(frozen=True, slots=True, eq=False)
class Cosegmentation:
    """What a set of images has in common, and how that was decided.

    clusters: per image (R, C) int64. masks: per image (R, C) bool, on the patch grid. votes: (K,) int64. foreground:
    the clusters that are. saliency: (I, K) float64, mean over the patches of a cluster in an image, NaN where it has
    none. sse: as in `clustered`. warnings: what a reader of the masks has to know, a sentence each.
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
    Warnings stand in the answer. Raises DataError for no image, shapes that quarrel and values that
    are no descriptor or no attention, ConfigError for more clusters than patches or a head that is not there.
    """
    config = config or CosegmentConfig()
    if len(descriptors) != len(attention):
        raise DataError(
            f"{len(descriptors)} images have descriptors, {len(attention)} attention; give both of each"
        )
    clusters, k, sse = clustered(descriptors, config)
    for image, (cluster_RC, attention_HRC) in enumerate(zip(clusters, attention, strict=True)):
        if np.shape(attention_HRC)[1:] != cluster_RC.shape:
            raise DataError(
                f"image {image + 1} has descriptors on a grid of {_by(cluster_RC)}, attention of shape "
                f"{np.shape(attention_HRC)}; both must come from one pass"
            )
    salient = [saliency_of(attention_HRC, config) for attention_HRC in attention]
    saliency_IK = _mean_saliency(clusters, k, salient)
    votes_K, needed = votes_of(saliency_IK, config)
    foreground = tuple(np.flatnonzero(votes_K >= needed).tolist())
    masks = tuple(np.isin(cluster_RC, foreground) for cluster_RC in clusters)
    warnings = tuple(_warnings(sse, salient, saliency_IK, votes_K, needed, config))
    return Cosegmentation(clusters, masks, votes_K, foreground, saliency_IK, sse, warnings)


# Clusters ----------------------------------------------------------------------------------------


def clustered(
    descriptors: Sequence[np.ndarray], config: CosegmentConfig
) -> tuple[tuple[np.ndarray, ...], int, tuple[float, ...]]:
    """k-means (faiss) over the directions of all patches of all images, (R, C, D) each.

    Gives the cluster of each patch, (R, C) int64 of 0..K-1 per image; K; and the sum of squared distances of all
    patches to their centres for each number of clusters tried, the last that of K. The elbow grows K from 1 and stops
    at the first whose sum is over `elbow` times that of one cluster less. Errors as in `cosegment`; they count images
    from 1.
    """
    units = _units(descriptors)
    order = sorted(range(len(units)), key=lambda image: _rank(units[image]))
    sorted_ND = np.concatenate([units[image] for image in order])
    learned_ND = np.concatenate([units[image][:: config.every] for image in order])
    if config.clusters is not None and config.clusters > len(learned_ND):
        raise ConfigError(
            f"cosegment.clusters is {config.clusters}, but k-means learns from {len(learned_ND)} patches "
            f"({len(sorted_ND)} patches, every {config.every}); ask for fewer clusters"
        )
    sse: list[float] = []
    tried = [config.clusters] if config.clusters else range(1, min(config.most, len(learned_ND)) + 1)
    for k in tried:
        label_N, squares = _k_means(learned_ND, sorted_ND, k, config)
        sse.append(squares)
        if _bent(sse, config):
            break
    parts = np.split(label_N, np.cumsum([len(units[image]) for image in order])[:-1])
    found = dict(zip(order, parts, strict=True))
    clusters = tuple(found[image].reshape(np.shape(one_RCD)[:2]) for image, one_RCD in enumerate(descriptors))
    return clusters, k, tuple(sse)


def _bent(sse: Sequence[float], config: CosegmentConfig) -> bool:
    return len(sse) > 1 and sse[-1] > config.elbow * sse[-2]


def _units(descriptors: Sequence[np.ndarray]) -> list[np.ndarray]:
    """(R*C, D) float32 of length 1 per image, checked."""
    if not descriptors:
        raise DataError("no images to segment; give at least 2")
    width = np.shape(descriptors[0])[-1]
    for image, one_RCD in enumerate(descriptors):
        if np.ndim(one_RCD) != 3 or not np.size(one_RCD) or np.shape(one_RCD)[2] != width:
            raise DataError(
                f"image {image + 1} has descriptors of shape {np.shape(one_RCD)}; they must be (rows, columns, width), "
                f"of width {width} as those of image 1: from one backbone and one setting"
            )
    return [unit(np.reshape(one, (-1, width)), f"image {image + 1}") for image, one in enumerate(descriptors)]


def _rank(one_ND: np.ndarray) -> tuple[float, str]:
    """Where an image stands among the others, by its content alone.

    By its mean first: a network's last bits differ from machine to machine, and must not reorder a set.
    """
    return float(one_ND.mean(dtype=np.float64)), hashlib.sha256(one_ND.tobytes()).hexdigest()


def _k_means(
    learned_MD: np.ndarray, all_ND: np.ndarray, k: int, config: CosegmentConfig
) -> tuple[np.ndarray, float]:
    """(labels (N,) int64, sum of squared distances of all)."""
    import faiss
    from threadpoolctl import threadpool_limits

    # One thread: with more of them sums run in another order, and a patch between two clusters may change sides.
    with threadpool_limits(1):
        k_means = faiss.Kmeans(
            all_ND.shape[1],
            k,
            niter=ITERATIONS,
            nredo=config.tries,
            seed=config.seed,
            # By itself faiss learns from no more than 256 points a cluster, drawn at random.
            max_points_per_centroid=len(learned_MD),
            min_points_per_centroid=1,
        )
        k_means.train(learned_MD)
        square_N1, label_N1 = k_means.index.search(all_ND, 1)
    return label_N1[:, 0], float(square_N1.sum(dtype=np.float64))


# Saliency and votes ------------------------------------------------------------------------------


def saliency_of(attention_HRC: np.ndarray, config: CosegmentConfig) -> np.ndarray:
    """(R, C) float64: the mean of the heads, then scaled within this image alone; 0 where there is nothing to scale.

    Raises DataError for attention that is no number or below 0, ConfigError for a head that is not there.
    """
    attention_HRC = np.asarray(attention_HRC, np.float64)
    if attention_HRC.ndim != 3 or not (np.isfinite(attention_HRC).all() and (attention_HRC >= 0).all()):
        raise DataError(
            f"attention of shape {attention_HRC.shape} must be (heads, rows, columns) of numbers of at least 0; "
            "check the backbone"
        )
    if config.heads and max(config.heads) >= len(attention_HRC):
        raise ConfigError(
            f"cosegment.heads is {config.heads}, but there are {len(attention_HRC)} heads, counted from 0"
        )
    salient_RC = _scaled(attention_HRC[list(config.heads) or slice(None)].mean(axis=0), config.saliency)
    return salient_RC.min() + salient_RC.max() - salient_RC if config.away else salient_RC


def _scaled(mean_RC: np.ndarray, saliency: str) -> np.ndarray:
    if saliency == "raw":
        return mean_RC
    if saliency == "rank":
        places = np.unique(mean_RC, return_inverse=True)[1].reshape(
            mean_RC.shape
        )  # equal attention, equal rank
        return places / max(places.max(), 1)
    low, size = (mean_RC.min(), np.ptp(mean_RC)) if saliency == "minmax" else (0.0, mean_RC.sum())
    return (mean_RC - low) / size if size > 0 else np.zeros_like(mean_RC)


def _mean_saliency(clusters: Sequence[np.ndarray], k: int, salient: Sequence[np.ndarray]) -> np.ndarray:
    """(I, K): Sal(S_k^I), the mean over an image's patches of a cluster; NaN where it has none."""
    saliency_IK = np.full((len(salient), k), np.nan)
    for row_K, cluster_RC, one_RC in zip(saliency_IK, clusters, salient, strict=True):
        count_K = np.bincount(cluster_RC.ravel(), minlength=k)
        total_K = np.bincount(cluster_RC.ravel(), one_RC.ravel(), minlength=k)
        np.divide(total_K, count_K, out=row_K, where=count_K > 0)
    return saliency_IK


def votes_of(saliency_IK: np.ndarray, config: CosegmentConfig) -> tuple[np.ndarray, int]:
    """(votes (K,) int64, how many make a cluster foreground). A cluster that an image lacks gets no vote from it.

    >>> saliency_IK = np.array([[0.3, 0.1], [0.2, np.nan]])
    >>> votes_of(saliency_IK, CosegmentConfig())
    (array([2, 0]), 2)
    >>> votes_of(saliency_IK, CosegmentConfig(vote="literal"))
    (array([1, 0]), 2)
    """
    # 0.55 * 20 is a little over 11.
    needed = math.ceil(config.share * len(saliency_IK) - 1e-9)
    if config.vote == "mean":
        return (saliency_IK >= config.tau).sum(axis=0), needed  # NaN is not
    return (np.nansum(saliency_IK, axis=0) >= config.tau).astype(np.int64), needed


def _warnings(
    sse: Sequence[float],
    salient: Sequence[np.ndarray],
    saliency_IK: np.ndarray,
    votes_K: np.ndarray,
    needed: int,
    config: CosegmentConfig,
) -> list[str]:
    """What a reader of the masks has to know."""
    count, said = len(salient), []
    if config.clusters is None and not _bent(sse, config):
        said.append(f"no elbow up to {len(sse)} clusters, where the last still helped; {len(sse)} are kept")
    if flat := [str(image + 1) for image, one_RC in enumerate(salient) if not np.ptp(one_RC)]:
        said.append(f"attention is the same everywhere in image {', '.join(flat)}, which so tells nothing")
    if count == 1:
        said.append("1 image is no set: there is nothing it shares, and its own saliency alone decides")
    foreground = votes_K >= needed
    if config.vote == "literal":
        said.append(
            f"vote literal gives a cluster 0 votes or 1, however many images there are; {needed} of {count} are "
            f"asked for, so {foreground.sum()} of {len(votes_K)} clusters are foreground; vote mean counts images"
        )
    elif not foreground.any():
        said.append(
            f"no cluster is foreground, all masks are empty: the best has {votes_K.max()} votes of the {needed} asked "
            f"for, the largest mean saliency is {np.nanmax(saliency_IK):.3g} at tau {config.tau:g}; lower tau or share"
        )
    if foreground.all():
        said.append(f"all {len(votes_K)} clusters are foreground: masks are whole images; raise tau or share")
    return said


# Masks at image size -----------------------------------------------------------------------------


def enlarged(
    grid_RC: np.ndarray, height: int, width: int, covered: tuple[float, float] | None = None, outside: int = 0
) -> np.ndarray:
    """A mask or a map of clusters at image size, (height, width) of the same dtype, by nearest patch.

    covered: pixels from the top and from the left that the patches lie on, all by default; they may be fractions,
    where the network saw the image at another size. What lies beyond is `outside`.

    >>> enlarged(np.array([[True, False]]), 2, 5, covered=(2, 4)).astype(int)
    array([[1, 1, 0, 0, 0],
           [1, 1, 0, 0, 0]])
    """
    rows, columns = covered or (height, width)
    if not (0 < rows < height + 0.5 and 0 < columns < width + 0.5):
        raise DataError(f"patches cover {rows}x{columns} pixels of an image of {height}x{width}; check sizes")
    image_MW = np.full((height, width), outside, grid_RC.dtype)
    index = np.ix_(*map(_patch_of, (height, width), (rows, columns), grid_RC.shape))
    image_MW[: index[0].size, : index[1].size] = grid_RC[index]
    return image_MW


def _patch_of(side: int, covered: float, patches: int) -> np.ndarray:
    """The patch that the centre of each covered pixel falls into, the patches laid side by side."""
    middles = np.arange(side) + 0.5
    return np.minimum((middles[middles < covered] * patches / covered).astype(np.int64), patches - 1)


def refined(mask_MW: np.ndarray, pixels_MW: np.ndarray, config: CosegmentConfig) -> np.ndarray:
    """The mask with its border moved to the picture's edges (GrabCut, Rother et al. 2004), or as it is (`none`).

    pixels: (M, W) grey, uint8 or float in 0..1. Further than `band` pixels from the border the mask is taken for
    sure, as Amir et al. do. A mask that holds nothing or everything has no border and is given back. Raises DataError
    for another size or values out of range.
    """
    pixels_MW, mask_MW = np.asarray(pixels_MW), np.asarray(mask_MW, bool)
    if pixels_MW.shape != mask_MW.shape:
        raise DataError(f"a mask of {_by(mask_MW)} for a picture of {_by(pixels_MW)}; make them one size")
    if config.refine == "none" or mask_MW.all() or not mask_MW.any():
        return mask_MW
    if pixels_MW.dtype != np.uint8:
        if not (np.isfinite(pixels_MW).all() and pixels_MW.min() >= 0 and pixels_MW.max() <= 1):
            raise DataError("pixels are no numbers from 0 to 1; scale the picture, or give it as 8-bit")
        pixels_MW = np.rint(pixels_MW * 255).astype(np.uint8)
    import cv2

    window = np.ones((2 * config.band + 1,) * 2, np.uint8)
    inside_MW = cv2.erode(mask_MW.astype(np.uint8), window) > 0
    away_MW = cv2.dilate(mask_MW.astype(np.uint8), window) == 0
    if not away_MW.any():
        away_MW = ~mask_MW  # GrabCut must see some background
    said_MW = np.select([inside_MW, away_MW], [cv2.GC_FGD, cv2.GC_BGD], cv2.GC_PR_FGD).astype(np.uint8)
    # GrabCut draws from OpenCV's generator, which all of the process shares and nobody can read back.
    cv2.setRNGSeed(config.seed)
    cv2.grabCut(
        np.repeat(pixels_MW[:, :, None], 3, axis=2),
        said_MW,
        None,
        *np.zeros((2, 1, 65)),  # its two mixtures, five Gaussians each
        5,
        cv2.GC_INIT_WITH_MASK,
    )
    return (said_MW == cv2.GC_FGD) | (said_MW == cv2.GC_PR_FGD)


# Against the truth -------------------------------------------------------------------------------


def overlap(prediction_MW: np.ndarray, truth_MW: np.ndarray) -> tuple[float, float]:
    """(Dice, IoU) of two masks of one image. Both empty: 1; one of them empty: 0. Raises DataError for two sizes.

    >>> overlap(np.array([[1, 1, 0]]), np.array([[0, 1, 1]]))
    (0.5, 0.3333333333333333)
    """
    prediction_MW, truth_MW = np.asarray(prediction_MW, bool), np.asarray(truth_MW, bool)
    if prediction_MW.shape != truth_MW.shape:
        raise DataError(f"a mask of {_by(prediction_MW)} for a truth of {_by(truth_MW)}; make them one size")
    both, total = int((prediction_MW & truth_MW).sum()), int(prediction_MW.sum()) + int(truth_MW.sum())
    dice, iou = (2 * both / total, both / (total - both)) if total else (1.0, 1.0)
    assert math.isclose(iou, dice / (2 - dice))
    return dice, iou


@dataclass(frozen=True, slots=True, eq=False)
class Oracle:
    """The clusters that somebody who knows the truth would call foreground: a ceiling, never an answer.

    masks: per image (R, C) bool, on the patch grid. dice: mean over the images at their own size, before any
    refinement. exact: every subset of the clusters was tried.
    """

    foreground: tuple[int, ...]
    masks: tuple[np.ndarray, ...]
    dice: float
    exact: bool

    def __repr__(self) -> str:
        return f"Oracle({len(self.masks)} images, {len(self.foreground)} clusters, Dice {self.dice:.3f})"


def best_by_truth(
    found: Cosegmentation, truths: Sequence[np.ndarray], covered: Sequence[tuple[float, float]] | None = None
) -> Oracle:
    """The set of clusters with the largest mean Dice over the images.

    truths: per image (M, W) bool, with covered as in `enlarged`: Dice is that of `overlap`; or (R, C) float, the share
    of each patch that the truth lies on: Dice counts patches. Of up to EXACT clusters every subset is tried; of more,
    one cluster at a time is taken in or out, the best first, as long as that helps. No cluster at all is taken only
    where that is best. Raises DataError where a truth is missing.
    """
    k, count = len(found.votes), len(found.clusters)
    covered = covered or [None] * count
    if not len(truths) == len(covered) == count:
        raise DataError(f"{len(truths)} truths and {len(covered)} sizes for {count} images; give one of each")
    counts = [_counts(*each, k) for each in zip(found.clusters, truths, covered, strict=True)]
    area_KI, both_KI, truth_I = (np.stack(column, axis=-1) for column in zip(*counts, strict=True))
    chosen, dice = (_best_subset if k <= EXACT else _grown_subset)(area_KI, both_KI, truth_I)
    masks = tuple(np.isin(cluster_RC, chosen) for cluster_RC in found.clusters)
    return Oracle(tuple(chosen), masks, dice, exact=k <= EXACT)


def _counts(
    cluster_RC: np.ndarray, truth: np.ndarray, covered: tuple[float, float] | None, k: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Of one image: the size of each cluster, what of it the truth holds, (K,) each, and the size of the truth."""
    labels, held = cluster_RC, np.asarray(truth, np.float64)
    if np.asarray(truth).dtype == bool:
        labels = enlarged(cluster_RC, *held.shape, covered, outside=k)
    if labels.shape != held.shape:
        raise DataError(f"shares of {_by(held)} patches for a grid of {_by(labels)}; give one for each patch")
    area_K, both_K = (np.bincount(labels.ravel(), part, k + 1)[:k] for part in (None, held.ravel()))
    return area_K, both_K, held.sum()


def _mean_dice(area_XI: np.ndarray, both_XI: np.ndarray, truth_I: np.ndarray) -> np.ndarray:
    """(X,) of X sets of clusters, from their pixels and those that they share with the truth."""
    total_XI = area_XI + truth_I
    dice_XI = np.divide(2 * both_XI, total_XI, out=np.ones_like(total_XI), where=total_XI > 0)
    return dice_XI.mean(axis=1)


def _best_subset(area_KI: np.ndarray, both_KI: np.ndarray, truth_I: np.ndarray) -> tuple[list[int], float]:
    """Subset s holds cluster k where bit k of s is set; the sums of all of them by doubling."""
    area_SI = both_SI = np.zeros((1, len(truth_I)))
    for area_I, both_I in zip(area_KI, both_KI, strict=True):
        area_SI, both_SI = (
            np.concatenate([sum_SI, sum_SI + one_I])
            for sum_SI, one_I in ((area_SI, area_I), (both_SI, both_I))
        )
    dice_S = _mean_dice(area_SI, both_SI, truth_I)
    best = 1 + int(dice_S[1:].argmax())
    if dice_S[0] > dice_S[best]:
        best = 0
    return [k for k in range(len(area_KI)) if best >> k & 1], float(dice_S[best])


def _grown_subset(area_KI: np.ndarray, both_KI: np.ndarray, truth_I: np.ndarray) -> tuple[list[int], float]:
    """From the best single cluster on; row k of `turned` is the set with cluster k turned."""
    taken_K, dice = np.zeros(len(area_KI)), -1.0
    while True:
        turned_KK = np.abs(taken_K - np.eye(len(area_KI)))
        dice_K = _mean_dice(turned_KK @ area_KI, turned_KK @ both_KI, truth_I)
        if dice_K.max() <= dice:
            return np.flatnonzero(taken_K).tolist(), dice
        taken_K, dice = turned_KK[dice_K.argmax()], float(dice_K.max())


# Floors ------------------------------------------------------------------------------------------


def everything(height: int, width: int) -> np.ndarray:
    """The floor that sees nothing: (height, width) all foreground. Its Dice is 2f/(1 + f) at a foreground share f."""
    return np.ones((height, width), bool)


def mean_of_others(truths: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The floor that never looks at the image: per image, (M, W) bool, what at least half of the other truths hold.

    It uses labels. Truths of other sizes are laid over by nearest pixel; for an image alone the mask is empty.

    >>> [mask.astype(int).tolist() for mask in mean_of_others([np.eye(2), np.ones((2, 2)), np.zeros((2, 2))])]
    [[[1, 1], [1, 1]], [[1, 0], [0, 1]], [[1, 1], [1, 1]]]
    """
    floors = []
    for own, truth_MW in enumerate(truths):
        votes_MW = np.zeros(truth_MW.shape, np.int64)
        for other in (*truths[:own], *truths[own + 1 :]):
            votes_MW += enlarged(np.asarray(other, bool), *truth_MW.shape)
        floors.append((2 * votes_MW >= len(truths) - 1) & (len(truths) > 1))
    return tuple(floors)


def _by(array: np.ndarray) -> str:
    return "x".join(map(str, array.shape))
