"""The oracle is the best of all subsets of clusters; masks of others and whole frames ignore the image."""

import itertools

import numpy as np
import pytest

from vetdino.downstream.ultrasound.config import CosegmentConfig
from vetdino.downstream.ultrasound.method.baselines import EXACT, mean_of_other_masks, oracle_clusters
from vetdino.downstream.ultrasound.method.cosegmentation import cosegment
from vetdino.downstream.ultrasound.method.masks import Coverage, dice_and_iou, enlarge
from vetdino.platform.core.errors import DataError

WHOLE = [None]
"""The patches cover the whole image."""


def brute(clusters, k, truths, covered):
    """The best mean Dice over every subset, on enlarged masks, and which subsets have it."""
    best = {}
    for size in range(k + 1):
        for chosen in itertools.combinations(range(k), size):
            dice = [
                dice_and_iou(enlarge(np.isin(cluster, chosen), *truth.shape, cover), truth)[0]
                for cluster, truth, cover in zip(clusters, truths, covered, strict=True)
            ]
            best[chosen] = float(np.mean(dice))
    top = max(best.values())
    return top, [chosen for chosen, dice in best.items() if dice > top - 1e-12]


@pytest.mark.parametrize("seed", range(6))
def test_the_oracle_is_the_best_of_all_subsets_at_image_size(seed):
    random = np.random.default_rng(seed)
    clusters = [random.integers(0, 5, (4, 5)) for _ in range(3)]
    truths = [random.random((17, 22)) < share for share in (0.3, 0.6, 0.1)]
    covered = [Coverage(16, 20), Coverage(17, 22), Coverage(16.5, 21)]
    chosen, dice = oracle_clusters(clusters, 5, truths, covered)
    top, best = brute(clusters, 5, truths, covered)
    assert dice == pytest.approx(top)
    assert tuple(chosen) in best


def test_the_oracle_chooses_nothing_only_where_nothing_is_best():
    clusters = [np.array([[0, 1]])] * 3
    empty, left = np.zeros((1, 2), bool), np.array([[True, False]])
    assert oracle_clusters(clusters, 2, [empty, empty, left], WHOLE * 3)[0] == []
    assert oracle_clusters(clusters, 2, [empty, left, left], WHOLE * 3)[0] == [0]
    outside = np.array([[False, False, True]])  # no patch lies there: all subsets are as bad
    assert oracle_clusters(clusters, 2, [outside] * 3, [Coverage(1, 2)] * 3)[0] != []


def test_the_oracle_never_falls_below_the_vote(scene):
    descriptors, attention, _ = scene(4, noise=2.0)
    random = np.random.default_rng(3)
    truths = [random.random((70, 90)) < 0.3 for _ in range(4)]
    found = cosegment(descriptors, attention, CosegmentConfig(clusters=8, tau=0.3))
    voted = [
        dice_and_iou(enlarge(mask, 70, 90), truth)[0] for mask, truth in zip(found.masks, truths, strict=True)
    ]
    assert oracle_clusters(found.clusters, len(found.votes), truths, WHOLE * 4)[1] >= np.mean(voted) - 1e-12


def test_with_many_clusters_the_oracle_climbs():
    random = np.random.default_rng(0)
    k = EXACT + 4
    clusters = [random.integers(0, k, (12, 12)) for _ in range(3)]
    truths = [np.isin(cluster, (2, 5, 11, 17)) ^ (random.random((12, 12)) < 0.05) for cluster in clusters]
    assert oracle_clusters(clusters, k, truths, WHOLE * 3)[0] == [2, 5, 11, 17]
    few = [cluster % 6 for cluster in clusters]
    _, climbed = oracle_clusters(few, k, truths, WHOLE * 3)
    _, exact = oracle_clusters(few, 6, truths, WHOLE * 3)
    assert climbed == pytest.approx(exact, abs=0.02)


def test_an_oracle_without_a_truth_for_each_image_is_refused():
    clusters = [np.zeros((2, 2), int)] * 2
    with pytest.raises(DataError, match="1 truths and 2 sizes for 2 images"):
        oracle_clusters(clusters, 1, [np.ones((4, 4), bool)], WHOLE * 2)


def test_everything_foreground_has_the_dice_of_its_share(disc):
    truth = disc(40, 50, (20, 25), 8)
    share = truth.mean()
    assert dice_and_iou(np.ones((40, 50), bool), truth)[0] == pytest.approx(2 * share / (1 + share))


def test_the_mean_mask_is_of_the_others_alone():
    random = np.random.default_rng(0)
    truths = [random.random((6, 7)) < 0.5 for _ in range(5)]
    for own, mask in enumerate(mean_of_other_masks(truths)):
        others = np.stack([truth for image, truth in enumerate(truths) if image != own])
        np.testing.assert_array_equal(mask, others.mean(axis=0) >= 0.5)
    changed = [~truths[0], *truths[1:]]
    np.testing.assert_array_equal(mean_of_other_masks(changed)[0], mean_of_other_masks(truths)[0])


def test_the_mean_mask_fits_images_of_other_sizes_and_is_empty_for_one_alone():
    small, large = np.array([[True, False]]), enlarge(np.array([[False, True]]), 4, 6)
    first, second = mean_of_other_masks([small, large])
    np.testing.assert_array_equal(first, [[False, True]])
    np.testing.assert_array_equal(second, enlarge(small, 4, 6))
    assert not mean_of_other_masks([small])[0].any()
