"""k-means over the patches of all images of a set, and the elbow rule that chooses the number of clusters.

After Amir et al., "Deep ViT features as dense visual descriptors", 2112.05814, section 4.2.

R x C the patch grid of one image, N patches of all images, M those that k-means is fitted on, D dimensions,
K clusters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ....platform.core.errors import ConfigError, DataError
from ....platform.measure.neighbors import unit_vectors
from ..config import CosegmentConfig

MAX_ITERATIONS = 300
"""Most iterations of one k-means, as Amir et al.; faiss stops where no patch moves any more, mostly below 50."""

MANY_ITERATIONS = 25
"""Most iterations of each of many k-means, whose agreement counts: none of them has to converge."""


def cluster_patches(
    descriptors: Sequence[np.ndarray], config: CosegmentConfig
) -> tuple[tuple[np.ndarray, ...], int, tuple[float, ...]]:
    """k-means (faiss) over the directions of all patches of all images, (R, C, D) each.

    Returns the cluster of each patch, (R, C) int64 of 0..K-1 per image; K; and the sum of squared distances of all
    patches to their centers for each number of clusters tried, the last that of K. The elbow rule increases K from 1
    and stops at the first whose sum is over `elbow` times that of one cluster less. The result does not depend on
    the order of the images. Raises DataError for no image and for descriptors of another shape or width or without a
    direction, ConfigError for more clusters than patches; messages count images from 1.
    """
    patches = _Patches.of(descriptors, config)
    sse: list[float] = []
    counts = [config.clusters] if config.clusters else range(1, min(config.most, len(patches.fit_MD)) + 1)
    for k in counts:
        label_N, squares = _k_means(patches, k, MAX_ITERATIONS, config.tries, config.seed)
        sse.append(squares)
        if elbow_reached(sse, config):
            break
    return patches.by_image(label_N), k, tuple(sse)


def clusterings(
    descriptors: Sequence[np.ndarray], counts: Sequence[int], config: CosegmentConfig
) -> Iterator[tuple[tuple[np.ndarray, ...], int]]:
    """(clusters, K), as `cluster_patches` returns them, of `tries` random starts of k-means for each of `counts`.

    `config.clusters`, where it is given, is the only count; a count of more clusters than patches becomes their
    number. Another config.seed has other starts. Raises as `cluster_patches` does.
    """
    patches = _Patches.of(descriptors, config)
    numbers = {min(count, len(patches.fit_MD)) for count in counts}
    for k in [config.clusters] if config.clusters else sorted(numbers):
        for start in range(config.tries):
            label_N, _ = _k_means(patches, k, MANY_ITERATIONS, 1, config.seed * config.tries + start)
            yield patches.by_image(label_N), k


def elbow_reached(sse: Sequence[float], config: CosegmentConfig) -> bool:
    """Whether the last of the sums of squared distances is hardly below that of one cluster less."""
    return len(sse) > 1 and sse[-1] > config.elbow * sse[-2]


@dataclass(frozen=True, slots=True, eq=False)
class _Patches:
    """The patches of a set: all of them, those that k-means is fitted on, and which images they are of.

    order: of the images in all_ND, by content. grids: rows and columns of each image, in the order given.
    """

    all_ND: np.ndarray
    fit_MD: np.ndarray
    order: Sequence[int]
    grids: Sequence[tuple[int, ...]]

    @classmethod
    def of(cls, descriptors: Sequence[np.ndarray], config: CosegmentConfig) -> _Patches:
        """Raises as `cluster_patches` does."""
        units = _unit_descriptors(descriptors)
        order = sorted(range(len(units)), key=lambda image: _content_key(units[image]))
        all_ND = np.concatenate([units[image] for image in order])
        fit_MD = np.concatenate([units[image][:: config.every] for image in order])
        if config.clusters is not None and config.clusters > len(fit_MD):
            raise ConfigError(
                f"cosegment.clusters is {config.clusters}, but k-means is fitted on {len(fit_MD)} patches "
                f"({len(all_ND)} patches, every {config.every}); choose fewer clusters"
            )
        return cls(all_ND, fit_MD, order, [np.shape(one_RCD)[:2] for one_RCD in descriptors])

    def by_image(self, label_N: np.ndarray) -> tuple[np.ndarray, ...]:
        """The labels of all patches as (R, C) per image, in the order in which the images were given."""
        sizes = [int(np.prod(self.grids[image])) for image in self.order]
        parts = dict(zip(self.order, np.split(label_N, np.cumsum(sizes)[:-1]), strict=True))
        return tuple(parts[image].reshape(grid) for image, grid in enumerate(self.grids))

    def __repr__(self) -> str:
        return f"_Patches({len(self.all_ND)} of {len(self.grids)} images)"


def _unit_descriptors(descriptors: Sequence[np.ndarray]) -> list[np.ndarray]:
    """(R*C, D) float32 of length 1 per image. Raises DataError."""
    if not descriptors:
        raise DataError("no images to segment; give at least 2")
    width = np.shape(descriptors[0])[-1]
    for image, one_RCD in enumerate(descriptors):
        if np.ndim(one_RCD) != 3 or not np.size(one_RCD) or np.shape(one_RCD)[2] != width:
            raise DataError(
                f"image {image + 1} has descriptors of shape {np.shape(one_RCD)}; they must be (rows, columns, width), "
                f"of width {width} as those of image 1: from one backbone and one setting"
            )
    return [
        unit_vectors(np.reshape(one, (-1, width)), f"image {image + 1}")
        for image, one in enumerate(descriptors)
    ]


def _content_key(one_ND: np.ndarray) -> tuple[float, str]:
    """Sorts images by their content, so that the order in which they are given does not matter.

    By the mean first: a network's last bits differ from machine to machine, and must not reorder a set.
    """
    return float(one_ND.mean(dtype=np.float64)), hashlib.sha256(one_ND.tobytes()).hexdigest()


def _k_means(patches: _Patches, k: int, iterations: int, tries: int, seed: int) -> tuple[np.ndarray, float]:
    """(labels (N,) int64, sum of squared distances of all patches to their centers) of the best of `tries`."""
    import faiss
    from threadpoolctl import threadpool_limits

    parameters = faiss.ClusteringParameters()
    parameters.niter, parameters.nredo, parameters.seed = iterations, tries, seed
    # The default of faiss: at most 256 points per cluster, drawn at random.
    parameters.max_points_per_centroid, parameters.min_points_per_centroid = len(patches.fit_MD), 1
    # Not faiss.Kmeans, which fails where SimpleITK was imported first: both name C++ vectors in one SWIG table.
    width = patches.all_ND.shape[1]
    centers = faiss.IndexFlatL2(width)
    # One thread: with more of them sums run in another order, and a patch between two clusters may change sides.
    with threadpool_limits(1):
        faiss.Clustering(width, k, parameters).train(patches.fit_MD, centers)
        square_N1, label_N1 = centers.search(patches.all_ND, 1)
    return label_N1[:, 0], float(square_N1.sum(dtype=np.float64))
