"""k-means over the patches of all images of a set, and the elbow rule that chooses the number of clusters.

After Amir et al., "Deep ViT features as dense visual descriptors", 2112.05814, section 4.2.

R x C the patch grid of one image, N patches of all images, M those that k-means is fitted on, D dimensions,
K clusters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from ....platform.core.errors import ConfigError, DataError
from ....platform.measure.neighbors import unit_vectors
from ..config import CosegmentConfig

MAX_ITERATIONS = 300
"""Most iterations of one k-means, as Amir et al.; faiss stops where no patch moves any more, mostly below 50."""


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
    units = _unit_descriptors(descriptors)
    order = sorted(range(len(units)), key=lambda image: _content_key(units[image]))
    all_ND = np.concatenate([units[image] for image in order])
    fit_MD = np.concatenate([units[image][:: config.every] for image in order])
    if config.clusters is not None and config.clusters > len(fit_MD):
        raise ConfigError(
            f"cosegment.clusters is {config.clusters}, but k-means is fitted on {len(fit_MD)} patches "
            f"({len(all_ND)} patches, every {config.every}); choose fewer clusters"
        )
    sse: list[float] = []
    counts = [config.clusters] if config.clusters else range(1, min(config.most, len(fit_MD)) + 1)
    for k in counts:
        label_N, squares = _k_means(fit_MD, all_ND, k, config)
        sse.append(squares)
        if elbow_reached(sse, config):
            break
    parts = np.split(label_N, np.cumsum([len(units[image]) for image in order])[:-1])
    by_image = dict(zip(order, parts, strict=True))
    clusters = tuple(
        by_image[image].reshape(np.shape(one_RCD)[:2]) for image, one_RCD in enumerate(descriptors)
    )
    return clusters, k, tuple(sse)


def elbow_reached(sse: Sequence[float], config: CosegmentConfig) -> bool:
    """Whether the last of the sums of squared distances is hardly below that of one cluster less."""
    return len(sse) > 1 and sse[-1] > config.elbow * sse[-2]


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


def _k_means(
    fit_MD: np.ndarray, all_ND: np.ndarray, k: int, config: CosegmentConfig
) -> tuple[np.ndarray, float]:
    """(labels (N,) int64, sum of squared distances of all patches to their centers)."""
    import faiss
    from threadpoolctl import threadpool_limits

    parameters = faiss.ClusteringParameters()
    parameters.niter, parameters.nredo, parameters.seed = MAX_ITERATIONS, config.tries, config.seed
    # The default of faiss: at most 256 points per cluster, drawn at random.
    parameters.max_points_per_centroid, parameters.min_points_per_centroid = len(fit_MD), 1
    # Not faiss.Kmeans, which fails where SimpleITK was imported first: both name C++ vectors in one SWIG table.
    centers = faiss.IndexFlatL2(all_ND.shape[1])
    # One thread: with more of them sums run in another order, and a patch between two clusters may change sides.
    with threadpool_limits(1):
        faiss.Clustering(all_ND.shape[1], k, parameters).train(fit_MD, centers)
        square_N1, label_N1 = centers.search(all_ND, 1)
    return label_N1[:, 0], float(square_N1.sum(dtype=np.float64))
