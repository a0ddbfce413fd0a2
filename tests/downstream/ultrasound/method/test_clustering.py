"""k-means and the elbow rule: the clusters of patches, whatever the order, the threads and the lengths."""

import subprocess
import sys
import time
from dataclasses import replace

import faiss
import numpy as np
import pytest
import threadpoolctl

from vetdino.downstream.ultrasound.config import CosegmentConfig
from vetdino.downstream.ultrasound.method.clustering import cluster_patches
from vetdino.downstream.ultrasound.method.cosegmentation import cosegment
from vetdino.platform.core.errors import ConfigError

TWO = CosegmentConfig(clusters=2)


def holed(array, value):
    array = array.copy()
    array[1, 2] = value
    return array


def test_neither_threads_nor_other_peoples_draws_change_the_clusters(scene):
    descriptors, attention, _ = scene(6, noise=3.0)
    config = CosegmentConfig(clusters=8)
    one = cosegment(descriptors, attention, config)
    before = faiss.omp_get_max_threads()
    np.random.seed(3)
    try:
        faiss.omp_set_num_threads(2)
        other = cosegment(descriptors, attention, config)
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)
    assert all(map(np.array_equal, one.clusters, other.clusters))


def test_clusters_are_the_same_where_simpleitk_was_imported_first():
    # A process of its own: in this one faiss has been imported already.
    script = """
import numpy as np
import SimpleITK
from vetdino.downstream.ultrasound.config import CosegmentConfig
from vetdino.downstream.ultrasound.method.clustering import cluster_patches
vectors = np.random.default_rng(0).normal(size=(2, 12, 10, 16)).astype(np.float32)
_, _, (squares,) = cluster_patches(list(vectors), CosegmentConfig(clusters=5))
print(squares)
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    vectors = np.random.default_rng(0).normal(size=(2, 12, 10, 16)).astype(np.float32)
    _, _, (squares,) = cluster_patches(list(vectors), CosegmentConfig(clusters=5))
    assert float(process.stdout) == squares


def test_threads_are_given_back(scene):
    descriptors, attention, _ = scene()
    before = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
    cosegment(descriptors, attention, TWO)
    assert [pool["num_threads"] for pool in threadpoolctl.threadpool_info()] == before


@pytest.mark.slow
def test_a_set_of_ten_images_of_784_patches_takes_a_few_seconds():
    random = np.random.default_rng(0)
    kinds = random.normal(size=(20, 384))
    descriptors = [
        kinds[random.integers(0, 20, (28, 28))] + 1.5 * random.normal(size=(28, 28, 384)) for _ in range(10)
    ]
    attention = [random.random((6, 28, 28)) for _ in range(10)]
    began = time.process_time()
    found = cosegment(descriptors, attention, CosegmentConfig(elbow=1.0))
    assert len(found.sse) == 15
    assert time.process_time() - began < 8  # about 2 on one core


def test_every_patch_is_in_the_cluster_of_the_nearest_center_of_directions(scene):
    descriptors, _, _ = scene(3, noise=1.5)
    clusters, k, (sse,) = cluster_patches(descriptors, CosegmentConfig(clusters=5))
    assert k == 5
    patch_ND = np.concatenate([one.reshape(-1, 12) for one in descriptors]).astype(np.float64)
    patch_ND /= np.linalg.norm(patch_ND, axis=1, keepdims=True)
    label_N = np.concatenate([one.ravel() for one in clusters])
    centre_KD = np.stack([patch_ND[label_N == cluster].mean(axis=0) for cluster in range(5)])
    square_NK = ((patch_ND[:, None] - centre_KD) ** 2).sum(axis=2)
    # Settled: each centre is the mean of its patches, and no patch is nearer to another.
    np.testing.assert_array_equal(square_NK.argmin(axis=1), label_N)
    assert sse == pytest.approx(square_NK.min(axis=1).sum(), rel=1e-4)


def test_the_length_of_a_descriptor_does_not_matter(scene):
    descriptors, _, _ = scene(3, noise=1.5)
    longer = [one * np.float32(2 ** (image + 1)) for image, one in enumerate(descriptors)]
    for one, other in zip(cluster_patches(descriptors, TWO)[0], cluster_patches(longer, TWO)[0], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("elbow", [0.5, 0.9, 0.975])
def test_the_elbow_keeps_the_first_number_of_clusters_that_hardly_helps(elbow):
    random = np.random.default_rng(1)
    kinds = 5 * np.eye(8)[:4]
    descriptors = [
        kinds[random.integers(0, 4, (8, 8))] + 0.3 * random.normal(size=(8, 8, 8)) for _ in range(3)
    ]
    _, k, sse = cluster_patches(descriptors, CosegmentConfig(elbow=elbow))
    alone = [cluster_patches(descriptors, CosegmentConfig(clusters=c))[2][0] for c in range(1, 16)]
    first = next((c for c in range(2, 16) if alone[c - 1] > elbow * alone[c - 2]), 15)
    assert (k, sse) == (first, tuple(alone[:first]))
    if elbow == 0.9:
        assert k == 5  # the fifth tells four kinds no better apart, and is kept as the paper has it


def test_k_means_learns_from_every_third_patch_of_each_image_and_assigns_all(scene):
    descriptors, _, _ = scene(3, noise=1.5)
    config = CosegmentConfig(clusters=4, every=3)
    clusters, _, _ = cluster_patches(descriptors, config)
    thinned = [one.reshape(-1, 1, 12)[::3] for one in descriptors]
    thin, _, _ = cluster_patches(thinned, replace(config, every=1))
    # The same arrangement, if the mean of an image ranks it the same with two thirds of it gone: then the same centres.
    for one, other in zip(clusters, thin, strict=True):
        assert one.shape[1] == 12
        np.testing.assert_array_equal(one.ravel()[::3], other.ravel())


def test_faiss_learns_from_all_patches_not_from_256_a_cluster():
    random = np.random.default_rng(0)
    patch = random.normal(size=(2, 20, 20, 6)).astype(np.float32)
    (one, two), _, (sse,) = cluster_patches(list(patch), CosegmentConfig(clusters=1))
    assert not one.any()
    assert not two.any()
    patch_ND = patch.reshape(-1, 6) / np.linalg.norm(patch.reshape(-1, 6), axis=1, keepdims=True)
    assert sse == pytest.approx(((patch_ND - patch_ND.mean(axis=0)) ** 2).sum(), rel=1e-5)


def test_more_clusters_than_patches_are_refused_with_both_numbers(scene):
    descriptors, attention, _ = scene(2)
    with pytest.raises(ConfigError, match=r"300, .* 228 patches"):
        cosegment(descriptors, attention, CosegmentConfig(clusters=300))
    with pytest.raises(ConfigError, match=r"7, .* 4 patches \(228 patches, every 100"):
        cosegment(descriptors, attention, CosegmentConfig(clusters=7, every=100))
    assert len(cosegment(descriptors, attention, CosegmentConfig(elbow=1.0, every=100)).votes) <= 4
    assert len(cosegment(descriptors, attention, CosegmentConfig(clusters=228)).votes) == 228
